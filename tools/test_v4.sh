#!/usr/bin/env bash
# The tests with v4's code where there is no AVX-512: the compiler splits its vectors.
#   tools/test_v4.sh [ARGUMENTS OF PYTEST]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/v4/venv
[ -d "$venv" ] || .venv/bin/python -m venv "$venv"
# What the tests need lies in the project's own environment.
site='import sysconfig; print(sysconfig.get_path("purelib"))'
.venv/bin/python -c "$site" >"$("$venv/bin/python" -c "$site")/project.pth"
rm -rf build/v4/wheel
.venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/v4/wheel \
  -Cbuild-dir=build/v4/core -Ccmake.define.ELBOKIT_SPLIT_VECTORS=ON -Ccmake.define.ELBOKIT_CUDA=OFF .
"$venv/bin/pip" install --quiet --force-reinstall --no-deps build/v4/wheel/*.whl
# From outside the sources, so that the wheel is what is imported. It has no CUDA.
cd tests
ELBOKIT_CPU_LEVEL=v4 "../$venv/bin/python" -m pytest -p no:cacheprovider \
  --ignore-glob='test_cuda_*' "$@"

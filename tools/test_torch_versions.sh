#!/usr/bin/env bash
# One wheel, several versions of torch: each must pass the tests. The C++ extension in the wheel is of
# the first version; the others go without, for nothing else of torch is compiled in.
#   tools/test_torch_versions.sh 2.6.0 2.13.0
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: $0 VERSION..." >&2; exit 2; }
python=${PYTHON:-python3}
rm -rf build/wheel
for version in "$@"; do
  venv=build/torch-$version
  [ -d "$venv" ] || "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet "torch==$version"
  [ -d build/wheel ] || "$venv/bin/pip" wheel --quiet --no-deps --wheel-dir build/wheel .
  "$venv/bin/pip" install --quiet --force-reinstall --no-deps build/wheel/*.whl
  "$venv/bin/pip" install --quiet "elbokit[test]"
  # From outside the sources, so that the wheel is what is imported.
  (cd tests && "../$venv/bin/python" -m pytest -q -p no:cacheprovider test_torch_*.py)
done

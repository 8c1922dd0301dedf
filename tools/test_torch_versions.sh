#!/usr/bin/env bash
# One wheel, several versions of torch: nothing of torch is compiled in, so each must pass the tests.
#   tools/test_torch_versions.sh 2.6.0 2.13.0
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: $0 VERSION..." >&2; exit 2; }
python=${PYTHON:-python3}
rm -rf build/wheel
"$python" -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
for version in "$@"; do
  venv=build/torch-$version
  [ -d "$venv" ] || "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet "torch==$version"
  "$venv/bin/pip" install --quiet --force-reinstall --no-deps build/wheel/*.whl
  "$venv/bin/pip" install --quiet "elbokit[test]"
  # From outside the sources, so that the wheel is what is imported.
  (cd tests && "../$venv/bin/python" -m pytest -q -p no:cacheprovider test_torch_*.py)
done

#!/usr/bin/env bash
# Formats every C++ and CUDA file of the project and the Python package; with `check`, only says
# which are not.
source "$(dirname "$0")/common.sh"

scripts/system-packages.sh test
scripts/python-packages.sh test
source scripts/common.sh # .venv may be new

action=-i
[ "${1:-}" != check ] || action="--dry-run --Werror"
# shellcheck disable=SC2086  # two options
python_files=(python tests/python/package)
if [ "${1:-}" = check ]; then
  ruff format -q --check "${python_files[@]}"
  ruff check -q "${python_files[@]}"
else
  ruff format -q "${python_files[@]}"
fi
find include src models apps python tests benchmarks examples \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 clang-format $action

#!/usr/bin/env bash
# Formats every C++ and CUDA file of the project; with `check`, only says which are not.
source "$(dirname "$0")/common.sh"

scripts/system-packages.sh test
scripts/python-packages.sh test
source scripts/common.sh # .venv may be new

action=-i
[ "${1:-}" != check ] || action="--dry-run --Werror"
# shellcheck disable=SC2086  # two options
find include src models apps tests benchmarks examples \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 clang-format $action

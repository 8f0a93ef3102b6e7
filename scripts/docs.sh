#!/usr/bin/env bash
# Builds the API reference build/release/docs/html/index.html from the headers and the examples.
source "$(dirname "$0")/common.sh"

scripts/system-packages.sh test
scripts/python-packages.sh demo
source scripts/common.sh # .venv may be new

cmake --preset release --log-level=WARNING # doxygen may be new
cmake --build --preset release --target docs

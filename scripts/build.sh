#!/usr/bin/env bash
# Builds the library and the program build/release/bin/sotto, and nothing else.
source "$(dirname "$0")/common.sh"

scripts/system-packages.sh
scripts/python-packages.sh demo
source scripts/common.sh # .venv may be new

if [ ! -f build/release/build.ninja ]; then
  say "Configuring build/release"
  cmake --preset release -DSOTTO_BUILD_TESTS=OFF
fi
say "Building build/release/bin/sotto"
cmake --build --preset release --target sotto_app

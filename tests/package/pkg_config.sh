#!/bin/sh
# Builds and runs a program with nothing but a compiler and what pkg-config says about sotto.
#   pkg_config.sh compiler libdir source program expected-version
set -eu
PKG_CONFIG_PATH=$2/pkgconfig
LD_LIBRARY_PATH=$2
export PKG_CONFIG_PATH LD_LIBRARY_PATH

[ "$(pkg-config --modversion sotto)" = "$5" ]
for static in "" --static; do
  # shellcheck disable=SC2046,SC2086  # one argument a flag, or none
  "$1" -std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Werror "$3" \
    $(pkg-config $static --cflags --libs sotto) -o "$4"
  "$4" "$5"
done

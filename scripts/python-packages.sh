#!/usr/bin/env bash
# Installs pinned Python packages in .venv, once:
#   scripts/python-packages.sh demo    the language model
#   scripts/python-packages.sh test    what the tests need, too, torch among it
# The lists are scripts/requirements-*.txt; they name every package, so that pip follows no
# dependencies of its own: but for torch, which pins its own. A stamp holds what was installed.
source "$(dirname "$0")/common.sh"

install() { # name [option...]: name is the list's and the stamp's
  local list=scripts/requirements-$1.txt stamp=.venv/installed-$1.txt
  cmp -s "$list" "$stamp" && return
  say "Installing Python packages for $1 in .venv"
  .venv/bin/python -m pip install -q --disable-pip-version-check "${@:2}" -r "$list" ||
    die "pip could not install the packages in $list; is there a way to a package index?"
  cp "$list" "$stamp"
}

# An environment whose interpreter has gone (a moved checkout, a new Python) is made again.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  python3 -m venv .venv || die "python3 -m venv failed; the package python3-venv has what it needs"
fi

install demo --no-deps
if [ "$1" = test ]; then
  install test --no-deps
  install torch
fi

version=$(cmake --version | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
read -r major minor <<<"$version"
if [ "$major" -lt 3 ] || { [ "$major" = 3 ] && [ "$minor" -lt 25 ]; }; then
  install cmake --no-deps
fi

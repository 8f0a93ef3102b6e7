#!/bin/sh
# Compares the names that a shared library exports (functions without their arguments, and classes
# whose type is known outside) with a list.
#   symbols.sh libsotto.so symbols.txt
set -eu
names=$(nm -D --defined-only -C "$1" | cut -d ' ' -f 3- |
  sed -e 's/(.*//' -e 's/\[abi:[^]]*\]//' -e 's/^\(vtable\|typeinfo\|typeinfo name\) for //' |
  LC_ALL=C sort -u)
if ! printf '%s\n' "$names" | diff -u "$2" -; then
  cat >&2 <<'END'

The shared library's names (+) are not those of the public API's list (-). A public function or
class without SOTTO_API is missing; an internal name must not be there at all. If the API was meant
to change, change symbols.txt with it (docs/versioning.md says what such a change means).
END
  exit 1
fi

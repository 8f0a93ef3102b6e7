#!/bin/sh
# Compiler launcher: runs nvcc with -Xptxas=-v and keeps what ptxas says of the kernels beside the
# object file, as <object>.ptxas; anything else is shown. tests/cuda/check_ptxas.py reads it.
object= previous=
for argument in "$@"; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
[ -n "$object" ] || exec "$@"
"$@" 2>"$object.ptxas"
status=$?
grep -v -e '^ptxas info ' -e 'bytes stack frame' "$object.ptxas" >&2
exit $status

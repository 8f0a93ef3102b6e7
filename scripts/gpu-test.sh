#!/usr/bin/env bash
# Runs the tests that need a Hopper GPU, out of a build folder of the preset cuda:
#   scripts/gpu-test.sh [build folder] [quick]
# The folder may have been built elsewhere: nothing is compiled or fetched, its bin/ is enough
# (shared libraries that the machine lacks may lie in its lib/). Then compute-sanitizer, where it is
# installed, over a reduced table; `quick` leaves that out.
set -uo pipefail
build=$(cd "${1:-build/cuda}" && pwd) || exit 2
quick=${2:-}
export LD_LIBRARY_PATH=$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OMP_WAIT_POLICY=passive
PATH=$PATH:/usr/local/cuda/bin
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failures=()

# Ends with the run's summary; where it failed, with all that went wrong.
report() { # name status log
  printf '\n== %s\n' "$1"
  if [ "$2" != 0 ]; then
    failures+=("$1")
    grep -v -e '^\[ RUN ' -e '^\[       OK ' "$3" | head -n 200
  else
    grep -e ' us of the CPU' -e 'cases run' -e 'skipped:' -e '^ .* x ' -e '^\[  PASSED' \
      -e '^\[  SKIPPED.*tests' -e 'ERROR SUMMARY' -e 'RACECHECK SUMMARY' "$3"
  fi
}

run() { # name command...
  local log=$logs/log
  timeout 600 "${@:2}" >"$log" 2>&1
  report "$1" $? "$log"
}

run "Unit tests" "$build/bin/sotto_unit_tests" --gtest_brief=1
run "Tests on the GPU" "$build/bin/sotto_cuda_tests"

# A process for each family at once: most of the time goes into the oracle, on the CPU.
conformance=$build/bin/sotto_conformance
families=$("$conformance" --gtest_list_tests --gtest_filter='*.sm90*:*/sm90' | sed -n 's/^\([A-Z][A-Za-z]*\)\.$/\1/p')
[ -n "$families" ] || failures+=("conformance: no tests for sm90")
for family in $families; do
  {
    OMP_NUM_THREADS=2 timeout 600 "$conformance" --gtest_brief=1 --random 2000 \
      --gtest_filter="$family.sm90*:$family.*/sm90" >"$logs/$family" 2>&1
    echo $? >"$logs/$family.status"
  } &
done
wait
for family in $families; do
  report "Conformance: $family" "$(cat "$logs/$family.status")" "$logs/$family"
done

# Every kernel once, and the ways around them: packed tensors, masks, recipes, RoPE. Then, under the
# tools that look at global memory, workspaces that nobody has written before and bad lengths.
sanitize() { # tool
  local cases='Kernels.sm90*:Ragged.sm90*q0*max_len:Recipes.sm90*q70_k150*:Recipes.sm90*q20_31*'
  cases+=':Quantize.sm90*padded_packed:Quantize.sm90*rope_halves:ChannelMean.sm90*packed_first16*'
  timeout 300 compute-sanitizer --tool "$1" --error-exitcode 1 \
    "$conformance" --gtest_brief=1 --gtest_filter="$cases" || return
  case $1 in memcheck | initcheck)
    timeout 300 compute-sanitizer --tool "$1" --error-exitcode 1 \
      "$build/bin/sotto_cuda_tests" --gtest_filter='Streams.Convenience*:Hostile.*'
    ;;
  esac
}

if python3 -c 'import pytest, sotto' 2>/dev/null; then
  run "PyTorch package" python3 -m pytest "$(dirname "$0")/../tests/python/package" -q -k cuda
else
  printf '\n== PyTorch package: skipped, python3 has not both sotto and pytest\n'
fi

if [ "$quick" != quick ] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    {
      sanitize $tool >"$logs/$tool" 2>&1
      echo $? >"$logs/$tool.status"
    } &
  done
  wait
  for tool in memcheck racecheck initcheck synccheck; do
    report "compute-sanitizer $tool" "$(cat "$logs/$tool.status")" "$logs/$tool"
  done
elif [ "$quick" != quick ]; then
  printf '\n== compute-sanitizer: skipped, it is not installed\n'
fi

printf '\n'
[ "${#failures[@]}" = 0 ] || printf 'Failed: %s\n' "${failures[@]}"
[ "${#failures[@]}" = 0 ]

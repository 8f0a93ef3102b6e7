#!/usr/bin/env bash
# Sees to the compiler, the tools and the libraries that a build needs: installs what is missing
# with apt, as root or with sudo, or says what to install.
#   scripts/system-packages.sh         for the library and the program
#   scripts/system-packages.sh test    for the tests, too
source "$(dirname "$0")/common.sh"

# How to see that a thing is there, then its package for apt, dnf, pacman, zypper and brew.
packages() {
  cat <<'END'
command c++                g++                gcc-c++         gcc            gcc-c++             gcc
command cmake              cmake              cmake           cmake          cmake               cmake
command ninja              ninja-build        ninja-build     ninja          ninja               ninja
command python3            python3            python3         python         python3             python
module  ensurepip          python3-venv       python3         python         python3             python
header  hwy/highway.h      libhwy-dev         highway-devel   highway        highway-devel       highway
header  fmt/format.h       libfmt-dev         fmt-devel       fmt            fmt-devel           fmt
header  dnnl.hpp           libdnnl-dev        onednn-devel    onednn         onednn-devel        onednn
header  pcre2.h            libpcre2-dev       pcre2-devel     pcre2          pcre2-devel         pcre2
header  CLI/CLI.hpp        libcli11-dev       cli11-devel     cli11          cli11-devel         cli11
header  nlohmann/json.hpp  nlohmann-json3-dev json-devel      nlohmann-json  nlohmann_json-devel nlohmann-json
END
  [ "${1:-}" != test ] || cat <<'END'
header  gtest/gtest.h      libgtest-dev       gtest-devel     gtest          gtest               googletest
command clang++            clang              clang           clang          clang               llvm
fuzzer  runtime            libclang-rt-dev    compiler-rt     compiler-rt    clang               llvm
openmp  omp.h              libomp-dev         libomp-devel    openmp         libomp-devel        libomp
command doxygen            doxygen            doxygen         doxygen        doxygen             doxygen
command pkg-config         pkg-config         pkgconf         pkgconf        pkg-config          pkgconf
END
}

is_there() { # kind name
  case $1 in
    command) command -v "$2" ;;
    module) python3 -c "import $2" ;;
    fuzzer) # of clang, as the next
      echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
        clang++ -fsanitize=fuzzer -x c++ - -o /dev/null
      ;;
    openmp) printf '#include <%s>\n' "$2" | clang++ -fopenmp -E -x c++ - ;;
    header)
      printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#if !__has_include(<%s>)\n#error\n#endif\n' "$2" |
        "${CXX:-c++}" -E -x c++ -
      ;;
  esac >/dev/null 2>&1
}

missing() {
  local row
  packages "${1:-}" | while read -r -a row; do
    is_there "${row[0]}" "${row[1]}" || echo "${row[@]:2}"
  done
}

names() { # column: the missing packages as that package manager calls them
  cut -d ' ' -f "$1" <<<"$absent" | sort -u | tr '\n' ' '
}

absent=$(missing "${1:-}")
[ -n "$absent" ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo)
  # Without a terminal nobody can type a password.
  if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=(none)
  fi
fi

if command -v apt-get >/dev/null && [ "${as_root[*]:-}" != none ]; then
  say "Installing $(names 1)"
  "${as_root[@]}" apt-get update -qq || echo "apt-get update failed; going on with the lists as they are"
  # shellcheck disable=SC2046  # one argument a package
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends $(names 1) ||
    die "apt-get could not install these packages; install them by hand: $(names 1)"
  absent=$(missing "${1:-}")
  [ -z "$absent" ] || die "still not found after the installation: $(names 1)"
else
  cat >&2 <<END

error: these packages are missing, and only root may install them. One of:
  apt-get install $(names 1)
  dnf install     $(names 2)
  pacman -S       $(names 3)
  zypper install  $(names 4)
  brew install    $(names 5)
Then run the same command again.
END
  exit 1
fi

#!/usr/bin/env bash
# Sees to what the preset aarch64 needs: Debian's cross compiler, its libraries of architecture arm64
# and an emulator. Installs what is missing, as root, or says why not and fails.
#   scripts/aarch64-packages.sh && cmake --preset aarch64 && cmake --build --preset aarch64 && \
#     ctest --preset aarch64
source "$(dirname "$0")/common.sh"

missing=()
for package in g++-aarch64-linux-gnu qemu-user libhwy-dev:arm64 libfmt-dev:arm64 libgtest-dev:arm64; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || true
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} != 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
  echo "The tests for 64-bit ARM need Debian and these packages, which only root may install:"
  echo "  dpkg --add-architecture arm64 && apt-get update && apt-get install ${missing[*]}"
  exit 1
fi
say "Installing ${missing[*]}"
dpkg --add-architecture arm64
apt-get update -qq || echo "apt-get update failed; going on with the lists as they are"
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"

#include <fmt/format.h>

#include "cuda/memory.h"
#include "sotto/error.h"

namespace sotto::cuda {

DeviceGuard::DeviceGuard(const Device&) {}
DeviceGuard::~DeviceGuard() = default;

std::byte* allocate(std::size_t bytes, const Device& device, Stream) {
  throw Error(
      fmt::format("workspace: {} bytes could not be allocated on {}: this build has no CUDA "
                  "parts",
                  bytes, to_string(device)));
}

void free(std::byte*, const Device&, Stream) noexcept {}

void check_pointer(std::string_view, const void*, const Device&, Stream) {}

}  // namespace sotto::cuda

#include <fmt/format.h>

#include "bench/gpu.h"
#include "cuda/devices.h"
#include "sotto/error.h"

namespace sotto::cli {

Gpu check_gpu(const Device& device) {
  const cuda::Devices found = cuda::devices();
  if (!found.status.empty())
    throw Error(fmt::format("--device {}: {}", to_string(device), found.status));
  std::string names;
  for (const cuda::DeviceInfo& info : found.devices) {
    if (info.index == device.index) return {info.name, static_cast<double>(info.memory)};
    names += fmt::format("{}cuda:{}", names.empty() ? "" : ", ", info.index);
  }
  throw Error(fmt::format("--device {}: this machine has {}", to_string(device), names));
}

}  // namespace sotto::cli

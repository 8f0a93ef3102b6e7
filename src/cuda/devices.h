// Which GPUs this process could use: for `sotto info` and for the reasons of GPU backends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sotto::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  std::int64_t memory = 0;   // bytes
};

struct Devices {
  std::string status;  // empty, or why there is none: built without CUDA, no driver, too old a one
  int runtime_version = 0;  // as CUDA writes it: 13000 is 13.0; 0: built without CUDA
  int driver_version = 0;   // newest CUDA that the driver serves; 0: no driver
  std::vector<DeviceInfo> devices;
};

// Never throws for a missing or unsuitable driver; that is a status.
Devices devices();
// The same, asked once.
const Devices& known_devices();

}  // namespace sotto::cuda

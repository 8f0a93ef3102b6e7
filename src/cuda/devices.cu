#include <cuda_runtime.h>

#include "cuda/devices.h"

namespace sotto::cuda {

Devices devices() {
  Devices result;
  cudaRuntimeGetVersion(&result.runtime_version);
  if (cudaDriverGetVersion(&result.driver_version) != cudaSuccess || result.driver_version == 0) {
    result.status = "no NVIDIA driver was found";
    return result;
  }
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    result.status = cudaGetErrorString(error);
    cudaGetLastError();  // leave no error behind for others in this process
    return result;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    result.devices.push_back({i, properties.name, properties.major, properties.minor,
                              static_cast<std::int64_t>(properties.totalGlobalMem)});
  }
  if (result.devices.empty()) result.status = "the driver shows no device";
  return result;
}

const Devices& known_devices() {
  static const Devices known = devices();
  return known;
}

}  // namespace sotto::cuda

// What core needs to know of GPUs to run requests on their tensors: memory, whose it is, and the
// current device. Without CUDA, in the build or on the machine, there is nothing to do or to ask.
#pragma once

#include <cstddef>
#include <string_view>

#include "sotto/tensor.h"

namespace sotto::cuda {

// Makes a GPU the calling thread's current one for as long as this lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Device& device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  static constexpr int kNothingToRestore = -1;
  int previous_ = kNothingToRestore;
};

// Memory of a GPU, taken and given back in the stream's order. Throws Error where there is not so
// much.
std::byte* allocate(std::size_t bytes, const Device& device, Stream stream);
void free(std::byte* data, const Device& device, Stream stream) noexcept;

// Throws InvalidArgument where kernels on the GPU could not use the memory: pageable memory of the
// host, or another GPU's. Memory that a graph under capture on the stream will allocate is not
// known yet: then unknown addresses pass.
void check_pointer(std::string_view argument, const void* data, const Device& device,
                   Stream stream);

}  // namespace sotto::cuda

#include "cuda/memory.h"

#include <fmt/format.h>

#include "core/check.h"
#include "cuda/driver.h"
#include "cuda/error.h"

namespace sotto::cuda {
namespace {

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_of(stream), &status), "asking whether the stream is captured");
  return status != cudaStreamCaptureStatusNone;
}

// Whether CUDA knows the address as the device's, by the quickest question there is: every run asks
// it of every tensor. False where it is not known.
bool is_memory_of(const Device& device, const void* data) {
  static const auto get_attribute =
      driver_function<PFN_cuPointerGetAttribute_v4000>("cuPointerGetAttribute");
  int owner = 0;
  return get_attribute != nullptr &&
         get_attribute(&owner, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                       reinterpret_cast<CUdeviceptr>(data)) == CUDA_SUCCESS &&
         owner == device.index;
}

}  // namespace

DeviceGuard::DeviceGuard(const Device& device) {
  if (device.type != DeviceType::cuda) return;
  int current = 0;
  // No driver or no GPU: whoever takes the request does not compute on one.
  if (cudaGetDevice(&current) != cudaSuccess) {
    cudaGetLastError();
    return;
  }
  if (current == device.index) return;
  check(cudaSetDevice(device.index), to_string(device));
  previous_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (previous_ != kNothingToRestore) cudaSetDevice(previous_);
}

std::byte* allocate(std::size_t bytes, const Device& device, Stream stream) {
  const DeviceGuard guard(device);
  void* data = nullptr;
  if (const cudaError_t error = cudaMallocAsync(&data, bytes, stream_of(stream));
      error != cudaSuccess) {
    check(error, fmt::format("workspace: {} bytes could not be allocated on {}", bytes,
                             to_string(device)));
  }
  return static_cast<std::byte*>(data);
}

void free(std::byte* data, const Device& device, Stream stream) noexcept {
  try {
    const DeviceGuard guard(device);
    cudaFreeAsync(data, stream_of(stream));
  } catch (const Error&) {
    // A device that fails now has told so before, or will at the caller's next synchronisation.
  }
}

void check_pointer(std::string_view argument, const void* data, const Device& device,
                   Stream stream) {
  if (is_memory_of(device, data)) return;
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
    cudaGetLastError();  // no driver, no GPU: as above
    return;
  }
  if (attributes.type == cudaMemoryTypeUnregistered && !is_capturing(stream)) {
    core::fail(argument, "must be memory of {}, got an address that CUDA does not know",
               to_string(device));
  }
  if (attributes.type == cudaMemoryTypeDevice && attributes.device != device.index) {
    core::fail(argument, "must be memory of {}, got memory of cuda:{}", to_string(device),
               attributes.device);
  }
}

}  // namespace sotto::cuda

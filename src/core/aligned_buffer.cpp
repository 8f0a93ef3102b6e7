#include "core/aligned_buffer.h"

#include <new>

namespace sotto::core {
namespace {

std::byte* allocate_on_host(std::size_t bytes) try {
  return static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kWorkspaceAlignment}));
} catch (const std::bad_alloc&) {
  throw Error(fmt::format("workspace: {} bytes could not be allocated", bytes));
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes, const Device& device, Stream stream)
    : size_(bytes), device_(device), stream_(stream) {
  if (bytes == 0) return;
  data_ = device.type == DeviceType::cuda ? cuda::allocate(bytes, device, stream)
                                          : allocate_on_host(bytes);
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ == nullptr) return;
  if (device_.type == DeviceType::cuda) {
    cuda::free(data_, device_, stream_);
  } else {
    ::operator delete (data_, std::align_val_t{kWorkspaceAlignment});
  }
}

}  // namespace sotto::core

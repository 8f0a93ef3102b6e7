// Workspaces: memory of the convenience calls, and carving one up.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "cuda/memory.h"
#include "sotto/attention.h"

namespace sotto::core {

inline constexpr std::size_t kWorkspaceAlignment = 64;

inline std::size_t aligned_size(std::size_t bytes) {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

// Owned memory, not initialised; a GPU's belongs to the stream's order. Throws Error where there is
// not so much.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes, const Device& device = {}, Stream stream = {});
  ~AlignedBuffer();
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  Workspace span() const { return {data_, size_}; }

 private:
  std::size_t size_;
  Device device_;
  Stream stream_;
  std::byte* data_ = nullptr;
};

inline void check_workspace(Workspace workspace, std::size_t needed, const Device& device,
                            Stream stream) {
  if (workspace.size() < needed) {
    fail("workspace", "must have {} bytes (workspace_size()), got {}", needed, workspace.size());
  }
  if (needed == 0) return;
  if (workspace.data() == nullptr)
    fail("workspace", "is a null pointer, {} bytes are needed", needed);
  const auto address = reinterpret_cast<std::uintptr_t>(workspace.data());
  if (address % kWorkspaceAlignment != 0) {
    fail("workspace", "must be aligned to {} bytes, got address ...{:x}", kWorkspaceAlignment,
         address & 0xff);
  }
  if (device.type == DeviceType::cuda) {
    cuda::check_pointer("workspace", workspace.data(), device, stream);
  }
}

}  // namespace sotto::core

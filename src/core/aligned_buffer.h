// Workspaces: memory of the convenience calls, and carving one up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "core/check.h"
#include "sotto/attention.h"

namespace sotto::core {

inline constexpr std::size_t kWorkspaceAlignment = 64;

inline std::size_t aligned_size(std::size_t bytes) {
  return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

// Owned host memory, not initialised. Throws Error where there is not so much.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes) : size_(bytes), data_(allocate(bytes)) {}
  ~AlignedBuffer() { ::operator delete (data_, std::align_val_t{kWorkspaceAlignment}); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  Workspace span() const { return {data_, size_}; }

 private:
  static std::byte* allocate(std::size_t bytes) try {
    if (bytes == 0) return nullptr;
    return static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kWorkspaceAlignment}));
  } catch (const std::bad_alloc&) {
    throw Error(fmt::format("workspace: {} bytes could not be allocated", bytes));
  }

  std::size_t size_;
  std::byte* data_;
};

inline void check_workspace(Workspace workspace, std::size_t needed) {
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
}

}  // namespace sotto::core

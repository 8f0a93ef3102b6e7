// Places within a workspace.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sotto::cuda {

// Hands out parts of a workspace, which may not be there yet.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}

  template <class T>
  T* take(std::int64_t count) {
    constexpr std::size_t kAlignment = 256;
    T* part = reinterpret_cast<T*>(base_ + used_);
    used_ +=
        (static_cast<std::size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace sotto::cuda

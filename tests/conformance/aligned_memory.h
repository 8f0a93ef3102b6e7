// Memory that a plan may work in, exactly as long as it asks for.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "sotto/attention.h"

namespace sotto::test {

class AlignedMemory {
 public:
  explicit AlignedMemory(std::size_t bytes)
      : bytes_(bytes), memory_(static_cast<std::byte*>(::operator new(bytes, kAlignment))) {}
  Workspace span() const { return {memory_.get(), bytes_}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
  };

  std::size_t bytes_;
  std::unique_ptr<std::byte, Delete> memory_;
};

}  // namespace sotto::test

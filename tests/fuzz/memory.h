// Memory behind the tensors of fuzzed requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sotto/tensor.h"

namespace sotto::fuzz {

class Memory {
 public:
  // none: addresses that nobody may follow, for what must not look at data. exact: as many bytes as
  // shape and strides reach, so that AddressSanitizer sees one element too far.
  enum class Kind { none, exact };
  Memory(Kind kind, std::uint64_t seed) : kind_(kind), random_(seed | 1) {}

  // Points the tensor at memory of its own, filled with anything; at nothing where its shape and
  // strides make no sense or reach further than a test needs.
  void back(Tensor& tensor);
  void back(Tensor& tensor, std::span<const std::int32_t> values);

 private:
  std::byte* allocate(std::size_t bytes);

  Kind kind_;
  std::uint64_t random_;
  std::uintptr_t next_ = std::uintptr_t{1} << 20;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
};

}  // namespace sotto::fuzz

#include "memory.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace sotto::fuzz {
namespace {

constexpr std::int64_t kMost = 1 << 20;

std::optional<std::int64_t> span_bytes(const Tensor& tensor) {
  if (tensor.rank < 1 || tensor.rank > Tensor::kMaxRank) return std::nullopt;
  std::int64_t last = 0;
  for (int d = 0; d < tensor.rank; ++d) {
    if (tensor.size(d) < 0 || tensor.stride(d) < 0) return std::nullopt;
    if (tensor.size(d) == 0) return 0;
    std::int64_t reach;
    if (__builtin_mul_overflow(tensor.size(d) - 1, tensor.stride(d), &reach) || reach > kMost) {
      return std::nullopt;
    }
    last += reach;
  }
  const std::int64_t bytes = (last + 1) * dtype_size(tensor.dtype);
  return bytes <= kMost ? std::optional(bytes) : std::nullopt;
}

}  // namespace

std::byte* Memory::allocate(std::size_t bytes) {
  blocks_.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes));
  std::byte* const block = blocks_.back().get();
  for (std::size_t i = 0; i < bytes; i += sizeof(random_)) {
    random_ ^= random_ << 13;  // xorshift
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    std::memcpy(block + i, &random_, std::min(sizeof(random_), bytes - i));
  }
  return block;
}

void Memory::back(Tensor& tensor) {
  if (kind_ == Kind::none) {
    next_ += 64;
    tensor.data = reinterpret_cast<void*>(next_);
    return;
  }
  const auto bytes = span_bytes(tensor);
  tensor.data = bytes ? allocate(static_cast<std::size_t>(*bytes)) : nullptr;
}

void Memory::back(Tensor& tensor, std::span<const std::int32_t> values) {
  back(tensor);
  if (kind_ == Kind::exact && tensor.data != nullptr) {
    std::copy(values.begin(), values.end(), static_cast<std::int32_t*>(tensor.data));
  }
}

}  // namespace sotto::fuzz

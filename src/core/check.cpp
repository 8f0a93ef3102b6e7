#include "core/check.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace sotto::core {

void check_apart(std::string_view argument, const Tensor& tensor, std::string_view other_argument,
                 const Tensor& other) {
  if (tensor.data == other.data && tensor.numel() > 0 && other.numel() > 0) {
    fail(argument, "must not be the memory of {}", other_argument);
  }
}

void check_present(std::string_view argument, const Tensor& tensor) {
  if (!tensor) fail(argument, "is required, got no tensor");
  if (tensor.rank > Tensor::kMaxRank) {
    fail(argument, "must have at most {} dimensions, got {}", Tensor::kMaxRank, tensor.rank);
  }
}

void check_rank(std::string_view argument, const Tensor& tensor, int rank) {
  if (tensor.rank != rank) {
    fail(argument, "must have {} dimensions, got {}", rank, to_string(tensor));
  }
}

void check_dtype(std::string_view argument, const Tensor& tensor,
                 std::initializer_list<Dtype> allowed) {
  if (std::find(allowed.begin(), allowed.end(), tensor.dtype) != allowed.end()) return;
  std::vector<std::string_view> names;
  for (Dtype dtype : allowed) names.push_back(dtype_name(dtype));
  fail(argument, "dtype must be {}, got {}", fmt::join(names, " or "), dtype_name(tensor.dtype));
}

void check_device(std::string_view argument, const Tensor& tensor, const Device& device) {
  if (tensor.device != device) {
    fail(argument, "must be on {}, where q or x is, got {}", to_string(device),
         to_string(tensor.device));
  }
}

void check_contiguous_last(std::string_view argument, const Tensor& tensor) {
  const int last = tensor.rank - 1;
  if (tensor.size(last) > 1 && tensor.stride(last) != 1) {
    fail(argument, "last dimension must be contiguous, got stride {}", tensor.stride(last));
  }
}

void check_shape(std::string_view argument, const Tensor& tensor,
                 std::initializer_list<std::int64_t> expected, std::string_view meaning) {
  const bool same = tensor.rank == static_cast<int>(expected.size()) &&
                    std::equal(expected.begin(), expected.end(), tensor.shape.begin());
  if (!same) {
    fail(argument, "shape must be {} = [{}], got {}", meaning, fmt::join(expected, ", "),
         to_string(tensor));
  }
}

void check_memory(std::string_view argument, const Tensor& tensor, Access access) {
  std::int64_t last_element = 0;
  bool empty = false;
  check_present(argument, tensor);
  for (int d = 0; d < tensor.rank; ++d) {
    if (tensor.size(d) < 0)
      fail(argument, "dimension {} has the negative size {}", d, tensor.size(d));
    if (tensor.size(d) == 0) empty = true;
  }
  for (int d = 0; d < tensor.rank && !empty; ++d) {
    const std::int64_t stride = tensor.stride(d);
    if (stride < 0)
      fail(argument, "stride of dimension {} must not be negative, got {}", d, stride);
    if (access == Access::write && stride == 0 && tensor.size(d) > 1) {
      fail(argument, "is written, so dimension {} of size {} must not have stride 0", d,
           tensor.size(d));
    }
    std::int64_t reach;
    if (__builtin_mul_overflow(tensor.size(d) - 1, stride, &reach) ||
        __builtin_add_overflow(last_element, reach, &last_element)) {
      fail(argument, "sizes and strides overflow 64 bits: {}", to_string(tensor));
    }
  }
  std::int64_t bytes;
  if (__builtin_mul_overflow(last_element, dtype_size(tensor.dtype), &bytes)) {
    fail(argument, "sizes and strides overflow 64 bits: {}", to_string(tensor));
  }
  if (empty) return;
  if (tensor.data == nullptr)
    fail(argument, "data is a null pointer, expected {}", to_string(tensor));
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
  if (address % static_cast<std::uintptr_t>(dtype_size(tensor.dtype)) != 0) {
    fail(argument, "data must be aligned to {} bytes for {}, got address ...{:x}",
         dtype_size(tensor.dtype), dtype_name(tensor.dtype), address & 0xff);
  }
}

void check_table(std::string_view argument, const Tensor& tensor, Dtype dtype,
                 std::initializer_list<std::int64_t> expected, std::string_view meaning,
                 const Device& device, Access access) {
  check_dtype(argument, tensor, {dtype});
  check_shape(argument, tensor, expected, meaning);
  check_device(argument, tensor, device);
  check_memory(argument, tensor, access);
}

}  // namespace sotto::core

#include "sotto/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "core/check.h"

namespace sotto {

std::string_view dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return "f32";
    case Dtype::f16:
      return "f16";
    case Dtype::bf16:
      return "bf16";
    case Dtype::e4m3:
      return "e4m3";
    case Dtype::i8:
      return "i8";
    case Dtype::e2m1x2:
      return "e2m1x2";
    case Dtype::ue8m0:
      return "ue8m0";
    case Dtype::i32:
      return "i32";
    case Dtype::boolean:
      return "boolean";
  }
  return "unknown dtype";
}

std::int64_t dtype_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
    case Dtype::i32:
      return 4;
    case Dtype::f16:
    case Dtype::bf16:
      return 2;
    default:
      return 1;
  }
}

namespace {

void set_shape(Tensor& tensor, std::initializer_list<std::int64_t> shape) {
  if (shape.size() == 0 || shape.size() > Tensor::kMaxRank) {
    core::fail("shape", "must have 1 to {} dimensions, got {}", Tensor::kMaxRank, shape.size());
  }
  tensor.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  for (std::int64_t size : shape) {
    if (size < 0) core::fail("shape", "must not be negative, got [{}]", fmt::join(shape, ", "));
  }
}

// Dimensions that are really there, whatever somebody wrote into `rank`.
std::span<const std::int64_t> sizes_of(const Tensor& tensor) {
  return std::span(tensor.shape)
      .first(static_cast<std::size_t>(std::clamp(tensor.rank, 0, Tensor::kMaxRank)));
}

}  // namespace

Tensor::Tensor(void* elements, Dtype type, std::initializer_list<std::int64_t> sizes, Device where)
    : data(elements), dtype(type), device(where) {
  set_shape(*this, sizes);
  std::int64_t step = 1;
  for (std::size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    if (__builtin_mul_overflow(step, shape[d] > 0 ? shape[d] : 1, &step)) {
      core::fail("shape", "overflows 64 bits, got [{}]", fmt::join(sizes, ", "));
    }
  }
}

Tensor::Tensor(void* elements, Dtype type, std::initializer_list<std::int64_t> sizes,
               std::initializer_list<std::int64_t> steps, Device where)
    : data(elements), dtype(type), device(where) {
  set_shape(*this, sizes);
  if (steps.size() != sizes.size()) {
    core::fail("strides", "must be as many as sizes ({}), got {}", sizes.size(), steps.size());
  }
  std::copy(steps.begin(), steps.end(), strides.begin());
}

std::int64_t Tensor::numel() const {
  std::int64_t n = rank > 0 ? 1 : 0;
  for (const std::int64_t size : sizes_of(*this)) {
    if (__builtin_mul_overflow(n, size, &n)) return std::numeric_limits<std::int64_t>::max();
  }
  return n;
}

Tensor Tensor::transposed(int dim_a, int dim_b) const {
  if (dim_a < 0 || dim_b < 0 || dim_a >= rank || dim_b >= rank) {
    core::fail("transposed", "dimensions {} and {} must lie in [0, {})", dim_a, dim_b, rank);
  }
  Tensor t = *this;
  std::swap(t.shape[static_cast<std::size_t>(dim_a)], t.shape[static_cast<std::size_t>(dim_b)]);
  std::swap(t.strides[static_cast<std::size_t>(dim_a)], t.strides[static_cast<std::size_t>(dim_b)]);
  return t;
}

std::string to_string(const Tensor& tensor) {
  if (!tensor) return "no tensor";
  return fmt::format("{} [{}]", dtype_name(tensor.dtype), fmt::join(sizes_of(tensor), ", "));
}

std::string to_string(const Device& device) {
  return device.type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

}  // namespace sotto

// Rows as the vectorised steps see them. A row is one head of one token, `dim` numbers; the steps
// take the rows of some tokens and heads at once. Row numbers: token · heads + head.
#pragma once

#include <cstdint>

#include "sotto/tensor.h"

namespace sotto::cpu {

// Longer rows than this would not fit the steps' buffers on the stack.
inline constexpr std::int64_t kMaxDim = 2048;

struct RowCounts {
  std::int64_t tokens = 0, heads = 0, dim = 0;
  std::int64_t rows() const { return tokens * heads; }
};

// Where rows lie. Strides in bytes.
struct RowGrid {
  Dtype dtype = Dtype::f32;
  std::byte* data = nullptr;
  std::int64_t token_stride = 0, head_stride = 0;

  std::byte* row(std::int64_t token, std::int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

// Rows of floats, one behind the other.
inline RowGrid contiguous_rows(float* rows, const RowCounts& counts) {
  const auto row_bytes = counts.dim * static_cast<std::int64_t>(sizeof(float));
  return {Dtype::f32, reinterpret_cast<std::byte*>(rows), counts.heads * row_bytes, row_bytes};
}

// Calls f with a value of the C++ type of an input's dtype: float{}, f16{} or bf16{}.
template <class F>
decltype(auto) with_float_type(Dtype dtype, F&& f) {
  if (dtype == Dtype::f16) return f(f16{});
  if (dtype == Dtype::bf16) return f(bf16{});
  return f(float{});
}

// What a step finds out about each row.
struct RowRanges {
  float* amax = nullptr;   // the largest magnitude of the finite elements
  bool* finite = nullptr;  // every element is known to be finite
};

}  // namespace sotto::cpu

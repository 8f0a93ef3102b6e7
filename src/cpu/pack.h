// Rows of K and V on their way into the words of attention_kernels.h.
#pragma once

#include <cstdint>

#include "sotto/numerics.h"
#include "sotto/tensor.h"

namespace sotto::cpu {

// Rows of a tensor that lie a stride apart.
struct SourceRows {
  Dtype dtype = Dtype::f32;  // f32, f16, bf16, e4m3, i8
  const std::byte* data = nullptr;
  std::int64_t stride = 0;  // bytes
  std::int64_t count = 0;
  const float* scale = nullptr;  // [count]; null: 1
};

// Fetches rows into the cache that lie too far apart for the hardware to see where they lead.
inline void prefetch_rows(const SourceRows& rows, std::int64_t dim) {
  constexpr std::int64_t kLine = 64;
  const std::int64_t size = dim * dtype_size(rows.dtype);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const std::byte* data = rows.data + row * rows.stride;
    for (std::int64_t byte = 0; byte < size; byte += kLine) __builtin_prefetch(data + byte);
  }
}

// out[row][0 … dim) = value · scale, or += that. Returns the bits of the largest magnitude in
// `out`; those of Inf are above those of finite numbers, those of NaN above Inf's.
std::uint32_t widen_rows(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out);

// out[row][0 … dim) of bf16, e4m3 or i8 rows without scales, all of whose numbers are bf16, too.
void convert_rows_to_bf16(const SourceRows& rows, std::int64_t dim, bf16* out);

// out[row][0 … dim) = the bytes of i8 rows; start[row] = -128 · their sum.
void copy_int8_rows(const SourceRows& rows, std::int64_t dim, std::int8_t* out,
                    std::int32_t* start);

// Pairs of rows of numbers below 2^127, rounded to bf16: out[row / 2][0 … dim), the even row in the
// low halves. NaN and ±Inf become 0.
void pack_row_pairs(const float* rows, std::int64_t count, std::int64_t dim, std::uint32_t* out);

// The same of rows that are bf16 already; NaN and ±Inf stay. Returns the largest magnitude, or NaN
// where there is one.
float interleave_row_pairs(const bf16* rows, std::int64_t count, std::int64_t dim,
                           std::uint32_t* out);

// NaN and ±Inf become 0.
void clear_special_values(float* data, std::int64_t count);

}  // namespace sotto::cpu

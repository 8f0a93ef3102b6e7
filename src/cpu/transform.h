// What happens to rows on their way from 16 or 32 bits to 8, in front of the rounding: RoPE,
// Hadamard, a subtracted mean.
//
// Finite numbers stay finite: results that a float cannot hold become ±FLT_MAX.
#pragma once

#include <cstdint>

#include "cpu/row_grid.h"
#include "sotto/tensor.h"

namespace sotto::cpu {

// sotto::Rope for consecutive tokens. Strides in elements.
struct RopeRows {
  const float* cos = nullptr;  // tables, from row 0; null: no RoPE
  const float* sin = nullptr;
  std::int64_t cos_row_stride = 0, sin_row_stride = 0;
  std::int64_t cos_stride = 1, sin_stride = 1;  // between the channels of a row
  std::int64_t pairs = 0;
  bool interleaved = false;
  bool per_channel = false;                 // tables hold 2·pairs factors a row instead of `pairs`
  const std::int32_t* positions = nullptr;  // of the first token; null: counted from first_position
  std::int64_t position_stride = 1;
  std::int64_t first_position = 0;
};

// A row of parameters for each head. Strides in elements.
struct HeadRows {
  const float* data = nullptr;  // null: zeros
  std::int64_t head_stride = 0, stride = 1;
};

struct RowTransform {
  RopeRows rope = {};
  bool hadamard = false;
  HeadRows mean = {};
  const float* descale = nullptr;  // of each row of a quantised input; null: 1
};

// out = the input's values (f32, f16, bf16, e4m3, i8) after RoPE, Hadamard and the subtraction.
void transform_rows(const RowGrid& in, const RowCounts& counts, const RowTransform& transform,
                    float* out, const RowRanges& ranges);

// In place: rows −= mean.
void center_rows(float* rows, const RowCounts& counts, const HeadRows& mean,
                 const RowRanges& ranges);

// In place, orthonormal, its own inverse: within blocks of n, the largest power of two ≤ 256 that
// divides dim, H[i][j] = (-1)^popcount(i & j) / sqrt(n).
void hadamard_row(float* row, std::int64_t dim);

// The parameters of one head, copied to `buffer` (of dim) where they are not contiguous; null where
// there are none.
inline const float* contiguous_row(const HeadRows& rows, std::int64_t head, std::int64_t dim,
                                   float* buffer) {
  if (rows.data == nullptr) return nullptr;
  const float* row = rows.data + head * rows.head_stride;
  if (rows.stride == 1) return row;
  for (std::int64_t i = 0; i < dim; ++i) buffer[i] = row[i * rows.stride];
  return buffer;
}

}  // namespace sotto::cpu

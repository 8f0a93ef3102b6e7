// What happens to one row (a token of a head) on its way from 16 bits to 8: vectorised steps, each
// of them one pass over the row. Rows need no alignment and no padding.
//
// Finite numbers stay finite: results that a float cannot hold become ±FLT_MAX.
#pragma once

#include <cstdint>

#include "sotto/numerics.h"
#include "sotto/tensor.h"

namespace sotto::cpu {

// RoPE of one row; see sotto::Rope.
struct RopeRow {
  const float* cos = nullptr;  // null: no RoPE
  const float* sin = nullptr;
  std::int64_t pairs = 0;
  bool interleaved = false;
  bool per_channel = false;  // cos and sin hold 2·pairs factors instead of `pairs`
};

struct RowSource {
  Dtype dtype = Dtype::f32;  // f32, f16, bf16, e4m3, i8
  const std::byte* data = nullptr;
  float descale = 1.0f;
  RopeRow rope = {};
  bool hadamard = false;
};

struct RowTarget {
  Dtype dtype = Dtype::f32;
  std::byte* data = nullptr;
  e4m3* lo = nullptr;    // optional, beside e4m3: the rounding error
  float descale = 1.0f;  // of e4m3 and i8
};

// row[0 … dim) = the source's values, after RoPE and Hadamard.
void transform_row(const RowSource& source, std::int64_t dim, float* row);

// In place, orthonormal, its own inverse: within blocks of n, the largest power of two ≤ 256 that
// divides dim, H[i][j] = (-1)^popcount(i & j) / sqrt(n).
void hadamard_row(float* row, std::int64_t dim);

// row −= mean (null: 0). Returns the largest magnitude of the finite elements of the result.
float center_row(float* row, const float* mean, std::int64_t dim);

// factor · Σ a·b
float dot_row(const float* a, const float* b, std::int64_t dim, float factor);

// Adds the finite elements to `sum` and their numbers to `count`, element by element.
void accumulate_row(const float* row, std::int64_t dim, double* sum, double* count);

// Rounds to nearest even and saturates; 8-bit targets get row / descale, by a true division, so
// that every backend rounds the same float to the same code.
void store_row(const float* row, std::int64_t dim, const RowTarget& target);

}  // namespace sotto::cpu

// The SIMD part of attention on the CPU: widening rows of K and V to fp32, and one step of flash
// attention (a block of query rows against a tile of keys).
//
// Everything is laid out so that vectors run over query rows: Q, the scores and O are stored
// transposed, [dim or key][row], while K and V keep their own layout and are broadcast number by
// number. So nothing of K and V is transposed, and softmax needs no sums across lanes.
#pragma once

#include <cstdint>

#include "sotto/tensor.h"

namespace sotto::cpu {

// Keys of a tile. Tiles start at multiples of this in each sequence; P is rounded, and its maximum
// taken, tile by tile.
inline constexpr std::int64_t kKeyTile = 128;
// Ranges of keys within a tile are widened to multiples of this.
inline constexpr std::int64_t kKeyStep = 8;

// Rows that attend_tile() wants in a block, where there are `rows` in all: a power of two ≤ 32.
std::int64_t row_block(std::int64_t rows);

// Rows of a tensor that lie a stride apart.
struct SourceRows {
  Dtype dtype = Dtype::f32;  // f32, f16, bf16, e4m3, i8
  const std::byte* data = nullptr;
  std::int64_t stride = 0;  // bytes
  std::int64_t count = 0;
  const float* scale = nullptr;  // [count]; null: 1
};

// out[row][0 … dim) = value · scale, or += that. Returns the bits of the largest magnitude in
// `out`; those of Inf are above those of finite numbers, those of NaN above Inf's.
std::uint32_t widen_rows(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out);

// A block of query rows with its running softmax. Scores are in units of log2: z · log2(e).
struct RowBlock {
  std::int64_t rows = 0;           // row_block()
  const float* q = nullptr;        // [dim_qk][rows]
  const float* q_scale = nullptr;  // [rows]: turns q·k · k_scale into scores
  float* o = nullptr;              // [dim_v][rows]: Σ P·V, relative to max
  float* max = nullptr;            // [rows]
  float* sum = nullptr;            // [rows]: Σ P
};

struct KeyTile {
  const float* k = nullptr;        // [kKeyTile][dim_qk]
  const float* v = nullptr;        // [kKeyTile][dim_v]
  const float* k_scale = nullptr;  // [kKeyTile]
  bool v_finite = true;
};

// What one row block does with one tile.
struct TileStep {
  std::int64_t dim_qk = 0, dim_v = 0;
  std::int64_t key_begin = 0, key_end = 0;  // of the tile: seen by some row; multiples of kKeyStep
  const std::int32_t* row_begin = nullptr;  // [rows]: the keys of the tile that each row sees, …
  const std::int32_t* row_end = nullptr;    // … null: all of [key_begin, key_end)
  const float* row_bias = nullptr;          // [rows], optional: added before the cap
  const float* key_bias = nullptr;          // [kKeyTile][rows], optional: the same
  float cap = 0.0f;                         // > 0: score = cap · tanh(score / cap)
  const float* mask = nullptr;              // [kKeyTile][rows], optional: added after the cap
  bool p_e4m3 = false;      // P is scaled by 2^8 and rounded to e4m3; o and sum carry the 2^8
  float* scores = nullptr;  // [kKeyTile][rows], scratch
};

// The power of two that `o` and `sum` carry.
inline constexpr int kE4m3Bias = 8;

void attend_tile(const TileStep& step, const KeyTile& tile, const RowBlock& block);

}  // namespace sotto::cpu

// The SIMD part of attention on the CPU: one step of flash attention, a block of query rows against
// a tile of keys, and how rows of Q, K and V become what it reads.
//
// Everything is laid out so that vectors run over query rows: Q, the scores and O are stored
// transposed, [dim or key][row], while K and V are broadcast. So K is not transposed, and softmax
// needs no sums across lanes.
//
// Q, K, P and V are stored in 32-bit words of one fp32, two bf16 or four 8-bit numbers that are
// neighbours along the dimension that is summed over (dim for Q and K, keys for P and V). A word of
// K or V is broadcast and multiplied with a vector of words of Q or P: see products-inl.h.
#pragma once

#include <cstdint>

namespace sotto::cpu {

// Keys of a tile. Tiles start at multiples of this in each sequence; P is rounded, and its maximum
// taken, tile by tile.
inline constexpr std::int64_t kKeyTile = 128;
// Ranges of keys within a tile are widened to multiples of this.
inline constexpr std::int64_t kKeyStep = 8;

enum class Product { fp32, bf16, int8 };

// Numbers in a word.
inline std::int64_t depth(Product product) {
  return product == Product::fp32 ? 1 : product == Product::bf16 ? 2 : 4;
}

// What Q·K and P·V are computed in; sums are fp32 (int32 for int8).
struct Arithmetic {
  Product qk = Product::fp32;
  Product pv = Product::fp32;  // fp32 or bf16
};

// Rows that attend_tile() wants in a block, where there are `rows` in all: a power of two ≤ 32.
std::int64_t row_block(std::int64_t rows);

// A block of query rows with its running softmax. Scores are in units of log2: z · log2(e).
struct RowBlock {
  std::int64_t rows = 0;             // row_block()
  const std::uint32_t* q = nullptr;  // [dim_qk / depth][rows]; int8 as number + 128
  const float* q_scale = nullptr;    // [rows]: turns q·k · k_scale into scores
  float* o = nullptr;                // [dim_v][rows]: Σ P·V, relative to max
  float* max = nullptr;              // [rows]
  float* sum = nullptr;              // [rows]: Σ P as it was multiplied with V
  float* exact_sum = nullptr;        // [rows]: Σ P before rounding
};

struct KeyTile {
  const std::uint32_t* k = nullptr;       // [kKeyTile][dim_qk / depth]
  const std::int32_t* k_start = nullptr;  // [kKeyTile], of int8: -128 · Σ k
  const float* k_scale = nullptr;         // [kKeyTile]
  const std::uint32_t* v = nullptr;       // [kKeyTile / depth][dim_v], finite
  float v_scale = 1.0f;                   // of all of v
  const float* v_all = nullptr;           // [kKeyTile][dim_v] where V has NaN or Inf, 0 in `v`
};

// What one row block does with one tile.
struct TileStep {
  Arithmetic arithmetic = {};
  std::int64_t dim_qk = 0, dim_v = 0;
  std::int64_t key_begin = 0, key_end = 0;  // of the tile: seen by some row; multiples of kKeyStep
  const std::int32_t* row_begin = nullptr;  // [rows]: the keys of the tile that each row sees, …
  const std::int32_t* row_end = nullptr;    // … null: all of [key_begin, key_end)
  const float* row_bias = nullptr;          // [rows], optional: added before the cap
  const float* key_bias = nullptr;          // [kKeyTile][rows], optional: the same
  float cap = 0.0f;                         // > 0: score = cap · tanh(score / cap)
  const float* mask = nullptr;              // [kKeyTile][rows], optional: added after the cap
  bool p_e4m3 = false;      // P is scaled by 2^8 and rounded to e4m3; o and sums carry the 2^8
  float* scores = nullptr;  // [kKeyTile][rows], scratch: scores, then P in words
};

// The power of two that `o` and `sum` carry.
inline constexpr int kE4m3Bias = 8;

void attend_tile(const TileStep& step, const KeyTile& tile, const RowBlock& block);

}  // namespace sotto::cpu

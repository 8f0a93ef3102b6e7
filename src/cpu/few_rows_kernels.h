// The SIMD part of attention with few query rows: a tile of keys, read once and in place, for all
// rows of some kv heads.
//
// Vectors run along the head dimension, as K and V lie in memory. Where the CPU multiplies pairs of
// bf16 and the formats at hand are exact in it (bf16, e4m3, INT8), Q·K and P·V run on them, with a
// P rounded to bf16; all else is fp32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sotto/backend.h"

namespace sotto::cpu {

// How many keys ahead of the one at hand are fetched from memory, at most.
inline constexpr std::int64_t kMostKeysAhead = 32;

// How the kernels store rows of Q and O; depends on the machine and the dtypes.
struct FewRowsFormat {
  std::int64_t q_row = 0;  // bytes, a multiple of 64
  std::int64_t o_row = 0;  // floats, a multiple of 16
};
FewRowsFormat few_rows_format(const Problem& problem);

// From and to plain rows: in[0 … dim_qk), as load_query_row() gives it, and out[0 … dim_v).
void pack_query(const Problem& problem, const float* in, std::byte* out);
void unpack_output(const Problem& problem, const float* in, float* out);

// The keys of a tile that a row sees.
struct TileRange {
  std::int32_t begin = 0, end = 0;
  bool operator==(const TileRange&) const = default;
};

// Some kv heads, each with `rows` query rows: those of kv head h are h · rows ….
struct FewRowsBlock {
  std::int64_t kv_heads = 0, rows = 0;
  const std::byte* q = nullptr;     // [kv_heads · rows][q_row], packed
  const float* q_scale = nullptr;   // [kv_heads · rows], as QueryRow's
  const float* row_bias = nullptr;  // [kv_heads · rows], the same; null without a softcap
  float cap = 0.0f;                 // > 0: the softcap, in units of log2
  float* o = nullptr;               // [kv_heads · rows][o_row]: Σ P·V, relative to max
  float* o_tile = nullptr;          // the same of one tile, scratch: zeros
  float* max = nullptr;             // [kv_heads · rows], in units of log2
  double* sum = nullptr;            // [kv_heads · rows]: Σ P, which belongs to o
  double* exact_sum = nullptr;  // [kv_heads · rows]: Σ P before it is rounded to bf16, for the LSE
  float* rescale = nullptr;     // [kv_heads · rows], scratch
  float* scores = nullptr;      // [kv_heads · rows][kKeyTile], scratch
};

struct FewRowsTile {
  // Where key j's row of the first kv head is; [begin … end), then as many as kMostKeysAhead keys
  // that come next. Entries that fill [begin, end) up to multiples of 4 repeat its keys.
  const std::byte* const* k = nullptr;
  const std::byte* const* v = nullptr;
  std::int64_t k_head_stride = 0, v_head_stride = 0;  // bytes
  const float* k_scale = nullptr;                     // [kv_heads][kKeyTile]
  const float* v_scale = nullptr;                     // [kv_heads][kKeyTile], relative to …
  const float* v_scale_all = nullptr;                 // [kv_heads]
  const TileRange* seen = nullptr;                    // [rows], within [begin, end)
  std::int64_t begin = 0, end = 0;
};

// Scores, softmax and values of one tile.
void attend_few_rows(const Problem& problem, const FewRowsTile& tile, const FewRowsBlock& block);

}  // namespace sotto::cpu

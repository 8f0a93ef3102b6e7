// How attention is cut into pieces of work, and the memory that a thread needs for one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sotto/backend.h"

namespace sotto::cpu {

// A piece of work is some consecutive queries of a sequence, for all query heads of a kv head,
// against a share of the keys. Its row r is query r / group, head r % group of the kv head's.
struct Tiling {
  std::int64_t group = 1;    // query heads of a kv head
  std::int64_t queries = 1;  // of a piece: a power of two
  std::int64_t block = 1;    // rows that the kernel takes at once; never cut across a multiple of
                             // 128 queries, where the choice of V's terms changes
  std::int64_t splits = 1;   // shares that the keys are cut into

  std::int64_t blocks() const { return (queries * group + block - 1) / block; }
};

Tiling make_tiling(const Problem& problem, int workers);

// Memory of one thread; see attention_kernels.h for the layouts.
struct Scratch {
  Scratch(const Problem& problem, const Tiling& tiling, std::byte* memory);
  static std::size_t size(const Problem& problem, const Tiling& tiling);

  // Of a piece's rows: [block][dim][row of the block] and [row].
  float *q, *o, *max, *sum, *q_scale, *row_bias;
  float* row;  // [max(dim_qk, dim_v)]: one row of q or o
  // Of a key tile.
  float *k, *v, *v_two_terms, *k_scale, *v_scale;
  // Of a row block and a key tile.
  float *scores, *key_bias, *mask;
  std::int32_t *row_begin, *row_end;

 private:
  Scratch() = default;
  std::size_t lay_out(const Problem& problem, const Tiling& tiling, std::byte* memory);
};

}  // namespace sotto::cpu

// How attention is cut into pieces of work, and the memory that a thread needs for one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/geometry.h"
#include "cpu/attention_kernels.h"
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
  Arithmetic arithmetic;

  std::int64_t blocks() const { return (queries * group + block - 1) / block; }
};

Tiling make_tiling(const Problem& problem, int workers);

// The keys that some of the queries [first, end) sees: the band moves with the query, so that the
// first query's keys start first and the last one's end last.
core::KeyRange seen_by(const Problem& problem, const core::Sequence& sequence, std::int64_t first,
                       std::int64_t end);

// The tiles of kKeyTile keys that belong to a share of these keys.
core::KeyRange tiles_of_share(core::KeyRange keys, std::int64_t splits, std::int64_t split);

// Memory of one thread; see attention_kernels.h for the layouts.
struct Scratch {
  Scratch(const Problem& problem, const Tiling& tiling, std::byte* memory);
  static std::size_t size(const Problem& problem, const Tiling& tiling);

  // Of a piece's rows: [block][dim][row of the block] and [row].
  std::uint32_t* q;
  float *o, *max, *sum, *exact_sum, *q_scale, *row_bias;
  float* row;                // [max(dim_qk, dim_v)]: one row of q or o
  std::uint32_t* row_words;  // [dim_qk / depth]: one row of q
  // Of a key tile; v and v_all: of V and, where the problem has it, of V + V_lo.
  std::uint32_t *k, *v[2];
  float *k_scale, *v_scale, *v_all[2];
  std::int32_t* k_start;
  // Of a row block and a key tile.
  float *scores, *key_bias, *mask;
  std::int32_t *row_begin, *row_end;

 private:
  Scratch() = default;
  std::size_t lay_out(const Problem& problem, const Tiling& tiling, std::byte* memory);
};

}  // namespace sotto::cpu

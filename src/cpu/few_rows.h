// Attention with few query rows (one new token, or some speculative ones) against a long cache: as
// fast as memory gives K and V, which are read once, in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/geometry.h"
#include "cpu/few_rows_kernels.h"
#include "cpu/query_tile.h"
#include "cpu/tiling.h"

namespace sotto::cpu {

// Whether FewRows attends for sequences of this many queries; else QueryTile does. Depends on the
// sequence alone, not on the others of its batch, and so do the bits of the result.
bool is_few_rows(const Problem& problem, std::int64_t queries);

// Some kv heads of a sequence, all its queries, against a share of the keys: a piece of work.
struct KvHeads {
  std::int64_t begin = 0, end = 0;
};

// How many kv heads go into a piece: those that lie side by side in memory are read together, as
// long as there is work for all cores. A row's result does not depend on it.
std::int64_t kv_heads_of_piece(const AttentionArgs& args, const Problem& problem,
                               const Tiling& tiling, int workers);

// Memory of one thread.
struct FewRowsScratch {
  FewRowsScratch(const Problem& problem, std::byte* memory);
  static std::size_t size(const Problem& problem);  // 0 where no sequence can need it

  // Of a piece's rows, by kv head, query and head of the group: see FewRowsBlock.
  std::byte* q;
  float *q_scale, *row_bias, *o, *o_tile, *max, *rescale, *scores;
  double *sum, *exact_sum;
  float* row;  // [max(dim_qk, dim_v)]: one row of q
  // Of a tile: see FewRowsTile.
  const std::byte **k, **v, **scale_rows;
  float *k_scale, *v_scale, *v_scale_all;
  TileRange* seen;

 private:
  FewRowsScratch() = default;
  std::size_t lay_out(const Problem& problem, std::byte* memory);
};

class FewRows {
 public:
  // `careful`: memory of a QueryTile, which does those rows again whose sums overflowed.
  FewRows(const AttentionArgs& args, const Problem& problem, const Tiling& tiling,
          const FewRowsScratch& scratch, const Scratch& careful, const core::Sequence& sequence,
          KvHeads heads);

  // Attends over a share of the keys that the queries see.
  void attend(std::int64_t split);

  // After attend(): as QueryTile::result(). By kv heads in ascending order.
  double result(std::int64_t query, std::int64_t head, float* o);

 private:
  void load_queries();
  void attend_tile(std::int64_t first, core::KeyRange keys, std::int64_t end) const;
  bool fill_scales(const Scale& scale, std::int64_t first, core::KeyRange keys, float* out) const;
  double quick_result(std::int64_t query, std::int64_t head, float* o) const;

  std::int64_t rows() const { return sequence_.len_q * tiling_.group; }  // of a kv head

  const AttentionArgs& args_;
  const Problem& problem_;
  const Tiling& tiling_;
  const FewRowsScratch& scratch_;
  const Scratch& careful_scratch_;
  const core::Sequence& sequence_;
  KvHeads heads_;
  FewRowsFormat format_;
  FewRowsBlock block_;
  std::int64_t split_ = 0;
  std::optional<QueryTile> careful_;  // of kv head careful_head_
  std::int64_t careful_head_ = -1;
};

}  // namespace sotto::cpu

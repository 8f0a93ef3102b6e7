// One piece of work: see Tiling.
#pragma once

#include <cstdint>

#include "core/geometry.h"
#include "cpu/attention_kernels.h"
#include "cpu/dense_mask.h"
#include "cpu/key_loader.h"
#include "cpu/pack.h"
#include "cpu/tiling.h"

namespace sotto::cpu {

class QueryTile {
 public:
  QueryTile(const AttentionArgs& args, const Problem& problem, const Tiling& tiling,
            const Scratch& scratch, const core::Sequence& sequence, std::int64_t kv_head,
            std::int64_t first_query);

  // Attends over a share of the keys that the tile's queries see.
  void attend(std::int64_t split);

  // After attend(): a query's o[0 … dim_v), divided by its denominator. Returns its LSE without a
  // sink. 0 and -Inf for queries beyond the sequence's length.
  double result(std::int64_t query, std::int64_t head, float* o) const;

 private:
  SourceRows query_row(std::int64_t row) const;
  void load_query(std::int64_t row);
  void pack_query(const SourceRows& source) const;
  void attend_block(std::int64_t block, std::int64_t first_key, core::KeyRange keys);
  void fill_visible(std::int64_t block, std::int64_t first_key) const;
  void fill_key_bias(std::int64_t block, std::int64_t first_key, core::KeyRange keys) const;
  MaskRow fill_mask(std::int64_t block, std::int64_t first_key, core::KeyRange keys) const;
  void shrink_output(float factor) const;

  std::int64_t dim_words() const { return problem_.dim_qk / depth(tiling_.arithmetic.qk); }
  std::int64_t rows() const { return queries_ * tiling_.group; }
  std::int64_t last_row(std::int64_t block) const;
  std::int64_t query_of(std::int64_t row) const { return first_query_ + row / tiling_.group; }
  std::int64_t head_of(std::int64_t row) const {
    return kv_head_ * tiling_.group + row % tiling_.group;
  }

  const AttentionArgs& args_;
  const Problem& problem_;
  const Tiling& tiling_;
  const Scratch& scratch_;
  const core::Sequence& sequence_;
  std::int64_t kv_head_, first_query_;
  std::int64_t queries_;  // within the sequence's length
  KeyLoader keys_;
};

}  // namespace sotto::cpu

// Reads the keys and values of a tile from dense, packed or paged tensors into fp32.
#pragma once

#include <cstdint>

#include "core/geometry.h"
#include "cpu/tiling.h"

namespace sotto::cpu {

class KeyLoader {
 public:
  KeyLoader(const AttentionArgs& args, const Problem& problem, const Scratch& scratch,
            const core::Sequence& sequence, std::int64_t kv_head);

  // Goes on to the tile that starts at key `first`, of which the keys [begin, end), relative to
  // it, are wanted. Loads K into scratch.k and its scales into scratch.k_scale; V waits until it is
  // asked for. Rows around [begin, end) up to multiples of kKeyStep become zeros.
  void load(std::int64_t first, std::int64_t begin, std::int64_t end);

  struct Values {
    const float* v = nullptr;  // [kKeyTile][dim_v], times shrink()
    bool finite = true;
  };
  // V, or V + V_lo.
  const Values& values(bool two_terms);

  // A power of two that values are multiplied by, so that sums over them stay within fp32: 1, until
  // huge values turn up.
  float shrink() const { return shrink_; }

 private:
  std::uint32_t widen(const Tensor& tensor, std::int64_t dim, const float* scale, bool accumulate,
                      float* out) const;
  std::uint32_t widen_values(bool two_terms, float* out) const;
  void clear_fringe(std::int64_t dim, float* rows) const;
  void fill_scales(const core::ScaleRows& scales, float factor, float* out) const;

  const AttentionArgs& args_;
  const Problem& problem_;
  const Scratch& scratch_;
  const core::Sequence& sequence_;
  std::int64_t kv_head_;
  core::ScaleRows k_descale_, v_descale_;
  std::int64_t first_ = 0, begin_ = 0, end_ = 0;
  float shrink_ = 1.0f;
  Values values_[2];  // of this tile, where loaded: V, V + V_lo
};

}  // namespace sotto::cpu

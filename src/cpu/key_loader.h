// Reads the keys and values of a tile from dense, packed or paged tensors into words for the
// kernel.
#pragma once

#include <cstdint>

#include "core/geometry.h"
#include "cpu/attention_kernels.h"
#include "cpu/tiling.h"

namespace sotto::cpu {

class KeyLoader {
 public:
  KeyLoader(const AttentionArgs& args, const Problem& problem, const Tiling& tiling,
            const Scratch& scratch, const core::Sequence& sequence, std::int64_t kv_head);

  // Goes on to the tile that starts at key `first`, of which the keys [begin, end), relative to
  // it, are wanted. Loads K into scratch.k, its scales into scratch.k_scale and, for int8,
  // scratch.k_start; V waits until it is asked for. Rows around [begin, end) up to multiples of
  // kKeyStep become zeros.
  void load(std::int64_t first, std::int64_t begin, std::int64_t end);

  struct Values {
    const std::uint32_t* words = nullptr;  // [kKeyTile / depth][dim_v], finite
    float scale = 1.0f;                    // V times shrink() is that times `words`
    const float* all = nullptr;            // [kKeyTile][dim_v]: where there is NaN or Inf
  };
  // V, or V + V_lo.
  const Values& values(bool two_terms);

  // A power of two that values are multiplied by, so that sums over them stay within fp32: 1, until
  // huge values turn up.
  float shrink() const { return shrink_; }

 private:
  // f(rows, key) for runs of the wanted keys, relative to first_, that lie a stride apart.
  template <class F>
  void for_each_run(const Tensor& tensor, F&& f) const;
  void load_keys();
  float take_common_scale() const;
  bool load_plain_values(bool two_terms, const Values& values) const;
  void load_any_values(bool two_terms, Values& values);
  float widen_values(bool two_terms, float* out) const;
  template <class T>
  void clear_fringe(std::int64_t row_size, T* rows) const;
  void fill_scales(const core::ScaleRows& scales, core::KeyRange keys, float* out) const;
  std::int64_t lowest() const { return begin_ / kKeyStep * kKeyStep; }
  std::int64_t highest() const { return core::ceil_div(end_, kKeyStep) * kKeyStep; }

  const AttentionArgs& args_;
  const Problem& problem_;
  const Arithmetic& arithmetic_;
  const Scratch& scratch_;
  const core::Sequence& sequence_;
  std::int64_t kv_head_;
  core::ScaleRows k_descale_, v_descale_;
  std::int64_t first_ = 0, begin_ = 0, end_ = 0;
  float shrink_ = 1.0f;
  Values values_[2];  // of this tile, where loaded: V, V + V_lo
};

}  // namespace sotto::cpu

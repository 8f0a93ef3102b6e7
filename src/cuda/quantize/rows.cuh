// From the stored rows of a tile to what is measured and rounded: RoPE, the subtracted mean,
// Hadamard.
#pragma once

#include "cuda/quantize/work.cuh"

namespace sotto::cuda {

// RoPE's factors, kept from tile to tile as long as the thread's tokens stay.
template <int kWidth, class Element, class Features>
class RowRotation {
  using G = Group<kWidth>;

 public:
  __device__ explicit RowRotation(const QkvParams& params) : params_(params) {}

  // Says which stages of the Hadamard transform, where one follows, are done as well.
  __device__ __forceinline__ StagesDone operator()(const G& group, const WorkItem& item, int pass,
                                                   RowPart& x) {
    const RopeKind kind = Features::rope(params_);
    if (kind == RopeKind::none) return StagesDone::none;
    const bool query = item.operand == Operand::q;
    const auto position = [&] {
      return position_of(params_, query, item.batch,
                         item.token + min(group.token(pass), item.rows - 1));
    };
    if (kind == RopeKind::general) {
      const bool used = group.token(pass) < item.used;
      const std::uint16_t* row = item.source + (used ? group.token(pass) : 0) * item.token_stride;
      rope_general<kWidth>(x, params_.rope, position(),
                           [&](int channel) { return widen<Element>(used ? row[channel] : 0).x; });
      return StagesDone::none;
    }
    const bool transform = Features::hadamard(params_) > 0;
    const int key = query || params_.shared_positions ? item.slot : ~item.slot;
    if (key != loaded_ || G::kPasses > 1) {
      loaded_ = key;
      load_factors<kWidth>(params_.rope, position(), transform, factors_);
    }
    const auto turn = [&](float& x0, float& x1, float cos, float sin) {
      if (transform) {
        rotate_with_butterfly(x0, x1, cos, sin);
      } else {
        rotate(x0, x1, cos, sin);
      }
    };
    if (kind == RopeKind::halves) {
      for_each_half(x, factors_, turn);
      return transform ? StagesDone::halves : StagesDone::none;
    }
    for_each_neighbour(x, factors_, turn);
    return transform ? StagesDone::neighbours : StagesDone::none;
  }

 private:
  static constexpr int kNothing = INT32_MIN;

  const QkvParams& params_;
  RopeFactors factors_;
  int loaded_ = kNothing;
};

template <int kWidth, class Element, class Features, int kStages>
class RowReader {
  using G = Group<kWidth>;
  using Ring = TileRing<kWidth, Element, Features, kStages>;

 public:
  __device__ explicit RowReader(const QkvParams& params) : params_(params), rotation_(params) {}

  // This thread's part of a row, all of it done but for the Hadamard transform's factor.
  // Of Q: returns its product with the item's mean, where there is one.
  __device__ __forceinline__ float q(const Ring& ring, const G& group, const WorkItem& item,
                                     int pass, RowPart& x) {
    transformed(ring, group, item, pass, x);
    return item.mean == nullptr ? 0.0f : dot_mean(ring, group, x);
  }
  __device__ __forceinline__ void k(const Ring& ring, const G& group, const WorkItem& item,
                                    int pass, RowPart& x) {
    transformed(ring, group, item, pass, x);
    center(ring, group, item, pass, x);
  }
  __device__ __forceinline__ void v(const Ring& ring, const G& group, const WorkItem& item,
                                    int pass, RowPart& x) {
    ring.read(group, pass, x);
    const int block = params_.operands[static_cast<int>(Operand::v)].hadamard;
    if (block > 0) hadamard<kWidth>(x, block, StagesDone::none);
    center(ring, group, item, pass, x);
  }

 private:
  __device__ __forceinline__ void transformed(const Ring& ring, const G& group,
                                              const WorkItem& item, int pass, RowPart& x) {
    ring.read(group, pass, x);
    const StagesDone done = rotation_(group, item, pass, x);
    const int block = Features::hadamard(params_);
    if (block > 0) hadamard<kWidth>(x, block, done);
  }

  __device__ static __forceinline__ void center(const Ring& ring, const G& group,
                                                const WorkItem& item, int pass, RowPart& x) {
    if (item.mean == nullptr) return;
    subtract_mean(ring, group, x);
    if (item.used < kTileTokens && group.token(pass) >= item.used) clear(x);
  }

  __device__ static __forceinline__ void subtract_mean(const Ring& ring, const G& group,
                                                       RowPart& x) {
#pragma unroll
    for (int i = 0; i < kChannelsPerLane; i += 4) {
      const float4 mean = ring.mean(group, i / kChunkChannels)[i / 4 % 2];
      x[i] -= mean.x;
      x[i + 1] -= mean.y;
      x[i + 2] -= mean.z;
      x[i + 3] -= mean.w;
    }
  }

  __device__ static __forceinline__ void clear(RowPart& x) {
#pragma unroll
    for (float& value : x) value = 0.0f;
  }

  // Where products are beyond floats, they are added up at another size: a finite row has a finite
  // result.
  __device__ static __forceinline__ float dot_mean(const Ring& ring, const G& group,
                                                   const RowPart& x) {
    constexpr float kSize = 0x1p-64f, kLargest = 0x1p126f;
    const float dot = row_sum<kWidth>(dot_part(ring, group, x, 1.0f));
    if (__all_sync(~0u, is_finite(dot))) return dot;
    const float small = row_sum<kWidth>(dot_part(ring, group, x, kSize));
    if (is_finite(dot) || !is_finite(small)) return dot;
    return fminf(fmaxf(small / kSize / kSize, -kLargest), kLargest);
  }
  __device__ static __forceinline__ float dot_part(const Ring& ring, const G& group,
                                                   const RowPart& x, float size) {
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < kChannelsPerLane; i += 4) {
      const float4 mean = ring.mean(group, i / kChunkChannels)[i / 4 % 2];
      dot = __fmaf_rn(x[i] * size, mean.x * size, dot);
      dot = __fmaf_rn(x[i + 1] * size, mean.y * size, dot);
      dot = __fmaf_rn(x[i + 2] * size, mean.z * size, dot);
      dot = __fmaf_rn(x[i + 3] * size, mean.w * size, dot);
    }
    return dot;
  }

  const QkvParams& params_;
  RowRotation<kWidth, Element, Features> rotation_;
};

}  // namespace sotto::cuda

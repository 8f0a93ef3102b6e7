#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_kernels.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/element.h"
#include "cpu/attention_kernels.h"
#include "cpu/convert-inl.h"
#include "cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

// Scores stay within ±2^126, so that neither they nor a sum with a mask of that size overflow.
constexpr float kLargestScore = 8.507059e37f;

template <class T>
std::uint32_t WidenRows(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out) {
  const F32 d;
  const U32 du;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(du);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const T* in = reinterpret_cast<const T*>(rows.data + row * rows.stride);
    const auto scale = hn::Set(d, rows.scale != nullptr ? rows.scale[row] : 1.0f);
    float* row_out = out + row * dim;
    for (std::int64_t i = 0; i < dim; i += lanes) {
      auto x = hn::Mul(load(d, in + i), scale);
      if (accumulate) x = hn::Add(x, hn::LoadU(d, row_out + i));
      hn::StoreU(x, d, row_out + i);
      largest = hn::Max(largest, hn::BitCast(du, hn::Abs(x)));
    }
  }
  HWY_ALIGN std::uint32_t bits[16];
  hn::Store(largest, du, bits);
  return *std::max_element(bits, bits + lanes);
}

std::uint32_t WidenRowsOf(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out) {
  return core::with_element_type(
      rows.dtype, [&]<class T>(T) { return WidenRows<T>(rows, dim, accumulate, out); });
}

// acc[m][v] += Σ_k a(m, k) · b[k][v]: the one micro-kernel. a(m, k) = a[m · a_m + k · a_k] is
// broadcast; b has kVecs vectors a row. Called with accumulators at 0.
template <int kRows, int kVecs>
HWY_INLINE void multiply(const float* HWY_RESTRICT a, std::int64_t a_m, std::int64_t a_k,
                         const float* HWY_RESTRICT b, std::int64_t n, Vec (&acc)[kRows][kVecs]) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t k = 0; k < n; ++k) {
    Vec row[kVecs];
    for (int v = 0; v < kVecs; ++v) row[v] = hn::Load(d, b + (k * kVecs + v) * lanes);
    for (int m = 0; m < kRows; ++m) {
      const Vec x = hn::Set(d, a[m * a_m + k * a_k]);
      for (int v = 0; v < kVecs; ++v) acc[m][v] = hn::MulAdd(x, row[v], acc[m][v]);
    }
  }
}

template <int kRows, int kVecs>
HWY_INLINE void clear(Vec (&acc)[kRows][kVecs]) {
  for (auto& row : acc) {
    for (Vec& x : row) x = hn::Zero(F32());
  }
}

// Accumulator rows of the micro-kernel: kMicroRows · kVecs of them and kVecs + 1 operands have to
// fit the registers, of which AVX2 and SSE4 have 16.
constexpr int kMicroRows = (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4) ? 4 : 8;
static_assert(kKeyStep % kMicroRows == 0);

template <int kVecs>
class BlockStep {
 public:
  BlockStep(const TileStep& step, const KeyTile& tile, const RowBlock& block)
      : step_(step), tile_(tile), block_(block), lanes_(static_cast<std::int64_t>(hn::Lanes(d_))) {}

  void run() {
    compute_scores();
    if (step_.p_e4m3) {
      softmax<true>();
    } else {
      softmax<false>();
    }
    const bool all_seen = step_.row_begin == nullptr && step_.mask == nullptr;
    if (tile_.v_finite || all_seen) {
      add_values();
    } else {
      add_visible_values();
    }
  }

 private:
  std::int64_t rows() const { return kVecs * lanes_; }

  // scores = z, hidden keys -Inf; tile_max_ = their maximum.
  void compute_scores() {
    for (int v = 0; v < kVecs; ++v) tile_max_[v] = hn::Set(d_, -kInfinity);
    for (std::int64_t j = step_.key_begin; j < step_.key_end; j += kMicroRows) {
      Vec acc[kMicroRows][kVecs];
      clear(acc);
      multiply(tile_.k + j * step_.dim_qk, step_.dim_qk, 1, block_.q, step_.dim_qk, acc);
      for (int m = 0; m < kMicroRows; ++m) {
        for (int v = 0; v < kVecs; ++v) {
          const Vec z = finish_score(acc[m][v], j + m, v * lanes_);
          hn::Store(z, d_, step_.scores + (j + m) * rows() + v * lanes_);
          tile_max_[v] = hn::Max(tile_max_[v], z);
        }
      }
    }
  }

  // From a dot product to a score. The branches are the same for a whole tile.
  HWY_INLINE Vec finish_score(Vec dot, std::int64_t key, std::int64_t row) const {
    const Vec limit = hn::Set(d_, kLargestScore);
    Vec z =
        hn::Mul(hn::Mul(dot, hn::Set(d_, tile_.k_scale[key])), hn::Load(d_, block_.q_scale + row));
    if (step_.row_bias != nullptr) z = hn::Add(z, hn::Load(d_, step_.row_bias + row));
    if (step_.key_bias != nullptr) {
      z = hn::Add(z, hn::Load(d_, step_.key_bias + key * rows() + row));
    }
    z = clamp(z, limit);
    if (step_.cap > 0.0f) z = bend(z);
    if (step_.mask != nullptr) {
      const Vec mask = hn::Load(d_, step_.mask + key * rows() + row);
      const auto hidden = hn::Eq(mask, hn::Set(d_, -kInfinity));  // whatever z is: NaN, too
      z = hn::IfThenElse(hidden, mask, hn::Add(z, mask));
    }
    if (step_.row_begin != nullptr) {
      const I32 di;
      const auto j = hn::Set(di, static_cast<std::int32_t>(key));
      const auto seen =
          hn::AndNot(hn::VecFromMask(di, hn::Lt(j, hn::Load(di, step_.row_begin + row))),
                     hn::VecFromMask(di, hn::Lt(j, hn::Load(di, step_.row_end + row))));
      z = hn::IfThenElse(hn::MaskFromVec(hn::BitCast(d_, seen)), z, hn::Set(d_, -kInfinity));
    }
    return z;
  }

  // cap · tanh(z / cap). A z far below the cap is as it was, even where z / cap would underflow.
  HWY_INLINE Vec bend(Vec z) const {
    const float inverse = std::min(1.0f / step_.cap, std::numeric_limits<float>::max());
    const Vec ratio = hn::Mul(z, hn::Set(d_, inverse));
    const auto straight = hn::Lt(hn::Abs(ratio), hn::Set(d_, 0x1p-13f));
    return hn::IfThenElse(straight, z, hn::Mul(tanh(ratio), hn::Set(d_, step_.cap)));
  }

  // scores = P, relative to the new running maximum; rescale_ = what that makes of earlier sums.
  template <bool kE4m3>
  void softmax() {
    constexpr int kBias = kE4m3 ? kE4m3Bias : 0;
    constexpr int kDegree = kE4m3 ? 4 : 6;
    Vec max[kVecs], sum[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const Vec before = hn::Load(d_, block_.max + v * lanes_);
      const Vec now = hn::Max(before, tile_max_[v]);
      hn::Store(now, d_, block_.max + v * lanes_);
      // No key seen yet: any finite maximum will do, for every P is 0.
      const Vec none = hn::Set(d_, -kInfinity);
      max[v] = hn::IfThenElse(hn::Eq(now, none), hn::Zero(d_), now);
      rescale_[v] = exp2_negative<6, 0>(hn::Sub(before, max[v]));
      sum[v] = hn::Zero(d_);
    }
    for (std::int64_t j = step_.key_begin; j < step_.key_end; ++j) {
      for (int v = 0; v < kVecs; ++v) {
        float* score = step_.scores + j * rows() + v * lanes_;
        Vec p = exp2_negative<kDegree, kBias>(hn::Sub(hn::Load(d_, score), max[v]));
        if constexpr (kE4m3) p = nearest_e4m3(p);
        hn::Store(p, d_, score);
        sum[v] = hn::Add(sum[v], p);
      }
    }
    for (int v = 0; v < kVecs; ++v) {
      float* total = block_.sum + v * lanes_;
      hn::Store(hn::MulAdd(hn::Load(d_, total), rescale_[v], sum[v]), d_, total);
    }
  }

  // o = o · rescale + P·V. The tile is summed apart, so that rounding errors do not grow with the
  // number of keys but with that of tiles.
  void add_values() {
    for (std::int64_t i = 0; i < step_.dim_v; i += kMicroRows) {
      Vec acc[kMicroRows][kVecs];
      clear(acc);
      multiply(tile_.v + step_.key_begin * step_.dim_v + i, 1, step_.dim_v,
               step_.scores + step_.key_begin * rows(), step_.key_end - step_.key_begin, acc);
      for (int m = 0; m < kMicroRows; ++m) {
        for (int v = 0; v < kVecs; ++v) {
          float* o = block_.o + (i + m) * rows() + v * lanes_;
          hn::Store(hn::MulAdd(hn::Load(d_, o), rescale_[v], acc[m][v]), d_, o);
        }
      }
    }
  }

  // The same, number by number, where V holds NaN or Inf that some rows must not meet (0 · NaN).
  void add_visible_values() {
    HWY_ALIGN float rescale[2 * 16];
    for (int v = 0; v < kVecs; ++v) hn::Store(rescale_[v], d_, rescale + v * lanes_);
    for (std::int64_t i = 0; i < step_.dim_v; ++i) {
      for (std::int64_t row = 0; row < rows(); ++row) {
        float sum = 0.0f;
        for (std::int64_t j = step_.key_begin; j < step_.key_end; ++j) {
          if (!is_seen(j, row)) continue;
          sum = mul_add(step_.scores[j * rows() + row], tile_.v[j * step_.dim_v + i], sum);
        }
        float& o = block_.o[i * rows() + row];
        o = mul_add(o, rescale[row], sum);
      }
    }
  }

  // Fused where the target's vectors are, so that both ways of adding values give the same bits.
  static float mul_add(float a, float b, float c) {
    const hn::CappedTag<float, 1> one;
    return hn::GetLane(hn::MulAdd(hn::Set(one, a), hn::Set(one, b), hn::Set(one, c)));
  }

  bool is_seen(std::int64_t key, std::int64_t row) const {
    if (step_.mask != nullptr && step_.mask[key * rows() + row] == -kInfinity) return false;
    return step_.row_begin == nullptr || (key >= step_.row_begin[row] && key < step_.row_end[row]);
  }

  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  const TileStep& step_;
  const KeyTile& tile_;
  const RowBlock& block_;
  const F32 d_;
  const std::int64_t lanes_;
  Vec tile_max_[kVecs], rescale_[kVecs];
};

void AttendTile(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  if (block.rows == static_cast<std::int64_t>(hn::Lanes(F32()))) {
    BlockStep<1>(step, tile, block).run();
  } else {
    BlockStep<2>(step, tile, block).run();
  }
}

std::int64_t RowBlockOf(std::int64_t rows) {
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(F32()));
  return rows <= lanes ? lanes : 2 * lanes;
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(AttendTile);
HWY_EXPORT(RowBlockOf);
HWY_EXPORT(WidenRowsOf);

std::int64_t row_block(std::int64_t rows) { return HWY_DYNAMIC_DISPATCH(RowBlockOf)(rows); }

std::uint32_t widen_rows(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out) {
  return HWY_DYNAMIC_DISPATCH(WidenRowsOf)(rows, dim, accumulate, out);
}

void attend_tile(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  HWY_DYNAMIC_DISPATCH(AttendTile)(step, tile, block);
}

}  // namespace sotto::cpu
#endif  // HWY_ONCE

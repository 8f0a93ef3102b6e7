#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/transform.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h includes this file once per target; what follows sees a target's namespace.
#include "cpu/transform.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/element.h"
#include "cpu/convert-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// Rows with entries above kHuge are transformed at kShrink times their size: RoPE and the sums of a
// Hadamard transform grow an entry by far less than 2^31, so that neither overflows.
constexpr float kHuge = 0x1p96f;
constexpr float kShrink = 0x1p-32f;

template <class D>
HWY_INLINE hn::Mask<D> is_finite(D d, hn::Vec<D> x) {
  return hn::Le(hn::Abs(x), hn::Set(d, kLargest));
}

// `result` brought back into the range of finite floats where `from` was finite.
template <class D>
HWY_INLINE hn::Vec<D> saturate(D d, hn::Vec<D> result, hn::Mask<D> from_finite) {
  const auto clamped = hn::Clamp(result, hn::Set(d, -kLargest), hn::Set(d, kLargest));
  return hn::IfThenElse(from_finite, clamped, result);
}

template <class D>
HWY_INLINE hn::Vec<D> finite_magnitude(D d, hn::Vec<D> x) {
  return hn::IfThenElseZero(is_finite(d, x), hn::Abs(x));
}

// The largest of what f(tag, i) returns for all vectors of [0, n), which is not negative.
template <class F>
HWY_INLINE float max_over(std::int64_t n, F&& f) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, f(d, i));
  float result = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < n; ++i) result = std::max(result, hn::GetLane(f(hn::CappedTag<float, 1>(), i)));
  return result;
}

template <class T>
float load_row(const T* in, float factor, std::int64_t dim, float* row) {
  return max_over(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto x = hn::Mul(load(d, in + i), hn::Set(d, factor));
    hn::StoreU(x, d, row + i);
    return finite_magnitude(d, x);
  });
}

void scale_row(float factor, std::int64_t dim, float* row) {
  for_each_vector(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, row + i);
    hn::StoreU(saturate(d, hn::Mul(x, hn::Set(d, factor)), is_finite(d, x)), d, row + i);
  });
}

void rotate_row(const RopeRow& rope, float* row) {
  const float* cos = rope.cos;
  const float* sin = rope.sin;
  const std::int64_t pairs = rope.pairs;
  if (rope.interleaved) {
    for_each_vector(pairs, [&](auto d, std::int64_t i) HWY_ATTR {
      hn::Vec<decltype(d)> x0, x1, cos0, cos1, sin0, sin1;
      hn::LoadInterleaved2(d, row + 2 * i, x0, x1);
      if (rope.per_channel) {
        hn::LoadInterleaved2(d, cos + 2 * i, cos0, cos1);
        hn::LoadInterleaved2(d, sin + 2 * i, sin0, sin1);
      } else {
        cos0 = cos1 = hn::LoadU(d, cos + i);
        sin0 = sin1 = hn::LoadU(d, sin + i);
      }
      const auto y0 = hn::NegMulAdd(x1, sin0, hn::Mul(x0, cos0));
      const auto y1 = hn::MulAdd(x0, sin1, hn::Mul(x1, cos1));
      hn::StoreInterleaved2(y0, y1, d, row + 2 * i);
    });
    return;
  }
  const std::int64_t second = rope.per_channel ? pairs : 0;
  for_each_vector(pairs, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto x0 = hn::LoadU(d, row + i), x1 = hn::LoadU(d, row + pairs + i);
    const auto cos0 = hn::LoadU(d, cos + i), cos1 = hn::LoadU(d, cos + second + i);
    const auto sin0 = hn::LoadU(d, sin + i), sin1 = hn::LoadU(d, sin + second + i);
    hn::StoreU(hn::NegMulAdd(x1, sin0, hn::Mul(x0, cos0)), d, row + i);
    hn::StoreU(hn::MulAdd(x0, sin1, hn::Mul(x1, cos1)), d, row + pairs + i);
  });
}

// One butterfly stage between lanes i and i ^ kDistance; `partner` holds the lanes i ^ kDistance.
template <int kDistance, class D>
HWY_INLINE hn::Vec<D> butterfly_lanes(D d, hn::Vec<D> x, hn::Vec<D> partner) {
  constexpr int kLog2 = kDistance == 1 ? 0 : kDistance == 2 ? 1 : kDistance == 4 ? 2 : 3;
  const hn::RebindToUnsigned<D> du;
  const auto upper = hn::And(hn::ShiftLeft<31 - kLog2>(hn::Iota(du, 0)), hn::Set(du, 0x80000000u));
  return hn::Add(partner, hn::Xor(x, hn::BitCast(d, upper)));
}

// The stages within kVectors neighbouring vectors (distances below min(block, their lanes)), then
// times factor.
template <int kVectors, class D>
HWY_INLINE void transform_group(D d, [[maybe_unused]] std::int64_t block, float factor,
                                float* row) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> x[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    x[v] = hn::LoadU(d, row + v * lanes);
#if HWY_TARGET != HWY_SCALAR  // which has one lane
    x[v] = butterfly_lanes<1>(d, x[v], hn::Shuffle2301(x[v]));
    if (block > 2) x[v] = butterfly_lanes<2>(d, x[v], hn::Shuffle1032(x[v]));
    if (block > 4 && lanes > 4) x[v] = butterfly_lanes<4>(d, x[v], hn::SwapAdjacentBlocks(x[v]));
    if (block > 8 && lanes > 8) {
      x[v] = butterfly_lanes<8>(d, x[v], hn::SwapAdjacentBlocks(hn::ReverseBlocks(d, x[v])));
    }
#endif
  }
  for (int distance = 1; distance < kVectors; distance *= 2) {
    for (int v = 0; v < kVectors; ++v) {
      if ((v & distance) != 0) continue;
      const auto a = x[v], b = x[v + distance];
      x[v] = hn::Add(a, b);
      x[v + distance] = hn::Sub(a, b);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    hn::StoreU(hn::Mul(x[v], hn::Set(d, factor)), d, row + v * lanes);
  }
}

// The fast Walsh-Hadamard transform in each block, times 1/sqrt(block): first in groups of vectors,
// in registers, then between those.
template <int kVectors>
void transform_blocks(std::int64_t dim, std::int64_t block, float* row) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t group = kVectors * lanes;
  const auto normalise = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  const float within = block <= group ? normalise : 1.0f;
  std::int64_t begin = 0;
  for (; begin + group <= dim; begin += group) {
    transform_group<kVectors>(d, block, within, row + begin);
  }
  if (begin < dim) {  // only where a block is smaller than a vector
    HWY_ALIGN float rest[16] = {};
    std::copy(row + begin, row + dim, rest);
    transform_group<1>(d, block, within, rest);
    std::copy(rest, rest + (dim - begin), row + begin);
  }
  for (std::int64_t distance = group; distance < block; distance *= 2) {
    const auto factor = hn::Set(d, 2 * distance == block ? normalise : 1.0f);
    for (std::int64_t i = 0; i < dim; i += 2 * distance) {
      for (std::int64_t j = i; j < i + distance; j += lanes) {
        const auto a = hn::LoadU(d, row + j), b = hn::LoadU(d, row + j + distance);
        hn::StoreU(hn::Mul(hn::Add(a, b), factor), d, row + j);
        hn::StoreU(hn::Mul(hn::Sub(a, b), factor), d, row + j + distance);
      }
    }
  }
}

void hadamard_in_range(float* row, std::int64_t dim) {
  const std::int64_t block = std::min<std::int64_t>(256, dim & -dim);
  if (block <= 1) return;
  const auto vectors = block / static_cast<std::int64_t>(hn::Lanes(hn::CappedTag<float, 16>()));
  if (vectors >= 8) return transform_blocks<8>(dim, block, row);
  if (vectors >= 4) return transform_blocks<4>(dim, block, row);
  if (vectors >= 2) return transform_blocks<2>(dim, block, row);
  return transform_blocks<1>(dim, block, row);
}

void transform_row_in_vectors(const RowSource& source, std::int64_t dim, float* row) {
  const float amax = core::with_element_type(source.dtype, [&]<class T>(T) {
    return load_row(reinterpret_cast<const T*>(source.data), source.descale, dim, row);
  });
  const bool rotated = source.rope.cos != nullptr;
  const bool shrunk = amax > kHuge && (rotated || source.hadamard);
  if (shrunk) scale_row(kShrink, dim, row);
  if (rotated) rotate_row(source.rope, row);
  if (source.hadamard) hadamard_in_range(row, dim);
  if (shrunk) scale_row(1.0f / kShrink, dim, row);
}

void hadamard_row_in_vectors(float* row, std::int64_t dim) {
  const float amax = max_over(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    return finite_magnitude(d, hn::LoadU(d, row + i));
  });
  const bool shrunk = amax > kHuge;
  if (shrunk) scale_row(kShrink, dim, row);
  hadamard_in_range(row, dim);
  if (shrunk) scale_row(1.0f / kShrink, dim, row);
}

float center_row_in_vectors(float* row, const float* mean, std::int64_t dim) {
  return max_over(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    auto x = hn::LoadU(d, row + i);
    if (mean != nullptr) {
      const auto m = hn::LoadU(d, mean + i);
      x = saturate(d, hn::Sub(x, m), hn::And(is_finite(d, x), is_finite(d, m)));
      hn::StoreU(x, d, row + i);
    }
    return finite_magnitude(d, x);
  });
}

float dot_row_in_vectors(const float* a, const float* b, std::int64_t dim, float factor) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  }
  float dot = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < dim; ++i) dot += a[i] * b[i];
  if (std::isfinite(factor * dot)) return factor * dot;
  // NaN or Inf in the rows, or products beyond a float's range: the latter must not cost a NaN.
  double exact = 0.0;
  for (i = 0; i < dim; ++i) exact += static_cast<double>(a[i]) * b[i];
  exact *= factor;
  if (!std::isfinite(exact)) return static_cast<float>(exact);
  return static_cast<float>(std::clamp<double>(exact, -kLargest, kLargest));
}

void accumulate_row_in_vectors(const float* row, std::int64_t dim, double* sum, double* count) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) {
    const auto x = hn::PromoteTo(d, hn::LoadU(df, row + i));
    const auto finite = hn::Le(hn::Abs(x), hn::Set(d, kLargest));
    hn::StoreU(hn::Add(hn::LoadU(d, sum + i), hn::IfThenElseZero(finite, x)), d, sum + i);
    const auto one = hn::IfThenElseZero(finite, hn::Set(d, 1.0));
    hn::StoreU(hn::Add(hn::LoadU(d, count + i), one), d, count + i);
  }
  for (; i < dim; ++i) {
    if (!std::isfinite(row[i])) continue;
    sum[i] += row[i];
    count[i] += 1.0;
  }
}

template <class D>
HWY_INLINE hn::Vec<D> scaled(D d, const float* row, float descale) {
  return hn::Div(hn::LoadU(d, row), hn::Set(d, descale));
}

void store_e4m3(const float* row, std::int64_t dim, float descale, e4m3* out, e4m3* lo) {
  for_each_vector(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto x = scaled(d, row + i, descale);
    store(d, x, out + i);
    if (lo == nullptr) return;
    const auto largest = hn::Set(d, e4m3::kMax);
    const auto in_range = hn::IfThenElse(hn::Eq(x, x), hn::Clamp(x, hn::Neg(largest), largest), x);
    store(d, hn::Sub(in_range, load(d, out + i)), lo + i);
  });
}

void store_row_in_vectors(const float* row, std::int64_t dim, const RowTarget& target) {
  core::with_element_type(target.dtype, [&]<class T>(T) {
    T* out = reinterpret_cast<T*>(target.data);
    if constexpr (std::is_same_v<T, e4m3>) {
      store_e4m3(row, dim, target.descale, out, target.lo);
    } else {
      const float descale = std::is_same_v<T, std::int8_t> ? target.descale : 1.0f;
      for_each_vector(dim, [&](auto d, std::int64_t i)
                               HWY_ATTR { store(d, scaled(d, row + i, descale), out + i); });
    }
  });
}

}  // namespace
}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(transform_row_in_vectors);
HWY_EXPORT(hadamard_row_in_vectors);
HWY_EXPORT(center_row_in_vectors);
HWY_EXPORT(dot_row_in_vectors);
HWY_EXPORT(accumulate_row_in_vectors);
HWY_EXPORT(store_row_in_vectors);

void transform_row(const RowSource& source, std::int64_t dim, float* row) {
  HWY_DYNAMIC_DISPATCH(transform_row_in_vectors)(source, dim, row);
}

void hadamard_row(float* row, std::int64_t dim) {
  HWY_DYNAMIC_DISPATCH(hadamard_row_in_vectors)(row, dim);
}

float center_row(float* row, const float* mean, std::int64_t dim) {
  return HWY_DYNAMIC_DISPATCH(center_row_in_vectors)(row, mean, dim);
}

float dot_row(const float* a, const float* b, std::int64_t dim, float factor) {
  return HWY_DYNAMIC_DISPATCH(dot_row_in_vectors)(a, b, dim, factor);
}

void accumulate_row(const float* row, std::int64_t dim, double* sum, double* count) {
  HWY_DYNAMIC_DISPATCH(accumulate_row_in_vectors)(row, dim, sum, count);
}

void store_row(const float* row, std::int64_t dim, const RowTarget& target) {
  HWY_DYNAMIC_DISPATCH(store_row_in_vectors)(row, dim, target);
}

}  // namespace sotto::cpu
#endif

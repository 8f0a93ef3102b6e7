#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/transform.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h includes this file once per target; what follows sees a target's namespace.
#include "cpu/transform.h"

#include <algorithm>
#include <bit>

#include "core/element.h"
#include "cpu/hadamard-inl.h"
#include "cpu/rows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {
namespace {

// Rows with entries above kHuge are transformed at kShrink times their size: RoPE and the sums of a
// Hadamard transform grow an entry by far less than 2^31, so that neither overflows.
constexpr float kHuge = 0x1p96f;
constexpr float kShrink = 0x1p-32f;

struct RowRange {
  float amax;
  bool finite;
};

// Of a row whose largest magnitude has these bits.
HWY_INLINE RowRange range_of(std::uint32_t largest) {
  return {std::bit_cast<float>(largest), largest < kInfinityBits};
}

// `result` brought back into the range of finite floats where `from` was finite.
template <class D>
HWY_INLINE hn::Vec<D> saturate(D d, hn::Vec<D> result, hn::Mask<D> from_finite) {
  const auto largest = hn::Set(d, kLargestFloat);
  return hn::IfThenElse(from_finite, hn::Clamp(result, hn::Neg(largest), largest), result);
}

// A row of the input, widened.
template <class T>
struct Source {
  const T* data;
  float descale;

  template <class D>
  HWY_INLINE hn::Vec<D> at(D d, std::int64_t i) const {
    if constexpr (sizeof(T) == 1) return hn::Mul(load(d, data + i), hn::Set(d, descale));
    return load(d, data + i);
  }
};

// cos and sin of one position. halves: of the first channels of the pairs; those of the second
// channels lie `second` further on. interleaved: of each channel, sin of a pair's first negated.
struct RopeFactors {
  const float* cos = nullptr;  // null: no RoPE
  const float* sin = nullptr;
  std::int64_t second = 0;
};

struct RopeBuffers {
  HWY_ALIGN float gathered[2][kMaxDim];
  HWY_ALIGN float interleaved[2][kMaxDim];
};

const float* contiguous(const float* row, std::int64_t n, std::int64_t stride, float* buffer) {
  if (stride == 1) return row;
  for (std::int64_t i = 0; i < n; ++i) buffer[i] = row[i * stride];
  return buffer;
}

RopeFactors rope_factors(const RopeRows& rope, std::int64_t token, RopeBuffers& buffers) {
  if (rope.cos == nullptr) return {};
  const std::int64_t position = rope.positions != nullptr
                                    ? rope.positions[token * rope.position_stride]
                                    : rope.first_position + token;
  const std::int64_t width = rope.per_channel ? 2 * rope.pairs : rope.pairs;
  const float* cos = contiguous(rope.cos + position * rope.cos_row_stride, width, rope.cos_stride,
                                buffers.gathered[0]);
  const float* sin = contiguous(rope.sin + position * rope.sin_row_stride, width, rope.sin_stride,
                                buffers.gathered[1]);
  if (!rope.interleaved) return {cos, sin, rope.per_channel ? rope.pairs : 0};
  for_each_vector(rope.pairs, [&](auto d, std::int64_t i) HWY_ATTR {
    hn::Vec<decltype(d)> cos0, cos1, sin0, sin1;
    if (rope.per_channel) {
      hn::LoadInterleaved2(d, cos + 2 * i, cos0, cos1);
      hn::LoadInterleaved2(d, sin + 2 * i, sin0, sin1);
    } else {
      cos0 = cos1 = hn::LoadU(d, cos + i);
      sin0 = sin1 = hn::LoadU(d, sin + i);
    }
    hn::StoreInterleaved2(cos0, cos1, d, buffers.interleaved[0] + 2 * i);
    hn::StoreInterleaved2(hn::Neg(sin0), sin1, d, buffers.interleaved[1] + 2 * i);
  });
  return {buffers.interleaved[0], buffers.interleaved[1], 0};
}

// row = the source's first 2·pairs channels, turned; `in` may be the row itself.
template <class T>
HWY_INLINE void rotate_row(const Source<T>& in, const RopeRows& rope, const RopeFactors& factors,
                           float* row) {
  const float *cos = factors.cos, *sin = factors.sin;
  const std::int64_t pairs = rope.pairs, second = factors.second;
  if (!rope.interleaved) {
    for_each_vector(pairs, [&](auto d, std::int64_t i) HWY_ATTR {
      const auto x0 = in.at(d, i), x1 = in.at(d, pairs + i);
      const auto cos0 = hn::LoadU(d, cos + i), cos1 = hn::LoadU(d, cos + second + i);
      const auto sin0 = hn::LoadU(d, sin + i), sin1 = hn::LoadU(d, sin + second + i);
      hn::StoreU(hn::NegMulAdd(x1, sin0, hn::Mul(x0, cos0)), d, row + i);
      hn::StoreU(hn::MulAdd(x0, sin1, hn::Mul(x1, cos1)), d, row + pairs + i);
    });
    return;
  }
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has one lane
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (; i + lanes <= 2 * pairs; i += lanes) {
    const auto x = in.at(d, i);
    const auto turned = hn::Mul(x, hn::LoadU(d, cos + i));
    hn::StoreU(hn::MulAdd(hn::Shuffle2301(x), hn::LoadU(d, sin + i), turned), d, row + i);
  }
#endif
  const hn::CappedTag<float, 1> d1;
  for (; i < 2 * pairs; i += 2) {
    const auto x0 = in.at(d1, i), x1 = in.at(d1, i + 1);
    const auto turned0 = hn::Mul(x0, hn::LoadU(d1, cos + i));
    const auto turned1 = hn::Mul(x1, hn::LoadU(d1, cos + i + 1));
    hn::StoreU(hn::MulAdd(x1, hn::LoadU(d1, sin + i), turned0), d1, row + i);
    hn::StoreU(hn::MulAdd(x0, hn::LoadU(d1, sin + i + 1), turned1), d1, row + i + 1);
  }
}

void scale_row(float factor, std::int64_t dim, float* row) {
  for_each_vector(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, row + i);
    hn::StoreU(saturate(d, hn::Mul(x, hn::Set(d, factor)), is_finite(d, x)), d, row + i);
  });
}

// row −= mean (null: 0) and its range; a difference may overflow, which shows in the range.
HWY_INLINE RowRange center_row(float* row, const float* mean, std::int64_t dim) {
  return range_of(max_over(dim, [=](auto d, std::int64_t i) HWY_ATTR {
    auto x = hn::LoadU(d, row + i);
    if (mean != nullptr) {
      x = hn::Sub(x, hn::LoadU(d, mean + i));
      hn::StoreU(x, d, row + i);
    }
    return magnitude_bits(d, x);
  }));
}

// The same for rows with anything in them.
HWY_NOINLINE RowRange center_any_row(float* row, const float* mean, std::int64_t dim) {
  const std::uint32_t amax = max_over(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    auto x = hn::LoadU(d, row + i);
    if (mean != nullptr) {
      const auto m = hn::LoadU(d, mean + i);
      x = saturate(d, hn::Sub(x, m), hn::And(is_finite(d, x), is_finite(d, m)));
      hn::StoreU(x, d, row + i);
    }
    return finite_magnitude_bits(d, x);
  });
  return {std::bit_cast<float>(amax), false};
}

// RoPE and Hadamard; what overflows shows as Inf or NaN.
template <class T>
HWY_INLINE void transform_row(const Source<T>& in, const RowTransform& transform,
                              const RopeFactors& factors, std::int64_t dim, float* row) {
  const std::int64_t rotated = factors.cos != nullptr ? 2 * transform.rope.pairs : 0;
  if (rotated > 0) rotate_row(in, transform.rope, factors, row);
  for_each_vector(dim - rotated, [=](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(in.at(d, rotated + i), d, row + rotated + i);
  });
  if (transform.hadamard) hadamard_in_range(row, dim);
}

// The same for rows with anything in them: no finite number overflows.
template <class T>
HWY_NOINLINE void transform_any_row(const Source<T>& in, const RowTransform& transform,
                                    const RopeFactors& factors, std::int64_t dim, float* row) {
  const std::uint32_t amax = max_over(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto x = in.at(d, i);
    hn::StoreU(x, d, row + i);
    return finite_magnitude_bits(d, x);
  });
  const bool shrunk =
      std::bit_cast<float>(amax) > kHuge && (factors.cos != nullptr || transform.hadamard);
  if (shrunk) scale_row(kShrink, dim, row);
  transform_row(Source<float>{row, 1.0f}, transform, factors, dim, row);
  if (shrunk) scale_row(1.0f / kShrink, dim, row);
}

// Whether a row of `dim` fills kVectors registers and RoPE turns all of it or nothing.
template <int kVectors>
bool fits_registers(std::int64_t dim, const RopeRows& rope) {
  constexpr std::int64_t kLanes = hn::MaxLanes(hn::CappedTag<float, 16>());
  return dim == kVectors * kLanes && (rope.cos == nullptr || 2 * rope.pairs == dim);
}

template <int kVectors, class D>
HWY_INLINE void rotate_registers(D d, bool interleaved, const RopeFactors& factors,
                                 hn::Vec<D> (&x)[kVectors]) {
  constexpr std::int64_t kLanes = hn::MaxLanes(D());
  const float *cos = factors.cos, *sin = factors.sin;
  const std::int64_t second = factors.second;
  if (interleaved) {
#if HWY_TARGET != HWY_SCALAR
    unroll<kVectors>([&](auto v) HWY_ATTR {
      const auto turned = hn::Mul(x[v], hn::LoadU(d, cos + v * kLanes));
      x[v] = hn::MulAdd(hn::Shuffle2301(x[v]), hn::LoadU(d, sin + v * kLanes), turned);
    });
#endif
    return;
  }
  unroll<kVectors / 2>([&](auto v) HWY_ATTR {
    constexpr std::int64_t i = v * kLanes;
    const auto x0 = x[v], x1 = x[v + kVectors / 2];
    const auto cos0 = hn::LoadU(d, cos + i), cos1 = hn::LoadU(d, cos + second + i);
    const auto sin0 = hn::LoadU(d, sin + i), sin1 = hn::LoadU(d, sin + second + i);
    x[v] = hn::NegMulAdd(x1, sin0, hn::Mul(x0, cos0));
    x[v + kVectors / 2] = hn::MulAdd(x0, sin1, hn::Mul(x1, cos1));
  });
}

// All steps for a row that fits kVectors registers.
template <int kVectors, class T>
HWY_INLINE RowRange transform_registers(const Source<T>& in, const RowTransform& transform,
                                        const RopeFactors& factors, const float* mean, float* row) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr std::int64_t kLanes = hn::MaxLanes(d);
  hn::Vec<decltype(d)> x[kVectors];
  unroll<kVectors>([&](auto v) HWY_ATTR { x[v] = in.at(d, v * kLanes); });
  if (factors.cos != nullptr) {
    rotate_registers<kVectors>(d, transform.rope.interleaved, factors, x);
  }
  if (transform.hadamard) {
    unroll<kVectors>([&](auto v)
                         HWY_ATTR { x[v] = hadamard_in_vector(d, kVectors * kLanes, x[v]); });
    hadamard_between_vectors<kVectors>(d, hadamard_factor(kVectors * kLanes), x);
  }
  if (mean != nullptr) {
    unroll<kVectors>([&](auto v)
                         HWY_ATTR { x[v] = hn::Sub(x[v], hn::LoadU(d, mean + v * kLanes)); });
  }
  auto largest = hn::Zero(du);
  unroll<kVectors>([&](auto v) HWY_ATTR {
    hn::StoreU(x[v], d, row + v * kLanes);
    largest = hn::Max(largest, magnitude_bits(d, x[v]));
  });
  return range_of(hn::GetLane(hn::MaxOfLanes(du, largest)));
}

// kVectors: that a row fits; 0: it is transformed in memory, step by step.
template <int kVectors, class T>
void transform_rows_of(const RowGrid& in, const RowCounts& counts, const RowTransform& transform,
                       float* out, const RowRanges& ranges) {
  RopeBuffers rope_buffers;
  HWY_ALIGN float mean_buffer[kMaxDim];
  const std::int64_t dim = counts.dim;
  const RowPrefetcher prefetch(in, counts);
  for (std::int64_t token = 0, r = 0; token < counts.tokens; ++token) {
    const RopeFactors factors = rope_factors(transform.rope, token, rope_buffers);
    for (std::int64_t head = 0; head < counts.heads; ++head, ++r) {
      const Source<T> source{reinterpret_cast<const T*>(in.row(token, head)),
                             transform.descale != nullptr ? transform.descale[r] : 1.0f};
      prefetch(source.data);
      const float* mean = contiguous_row(transform.mean, head, dim, mean_buffer);
      float* row = out + r * dim;
      RowRange range;
      if constexpr (kVectors > 0) {
        range = transform_registers<kVectors>(source, transform, factors, mean, row);
      } else {
        transform_row(source, transform, factors, dim, row);
        range = center_row(row, mean, dim);
      }
      if (!range.finite) {
        transform_any_row(source, transform, factors, dim, row);
        range = center_any_row(row, mean, dim);
      }
      ranges.amax[r] = range.amax;
      ranges.finite[r] = range.finite;
    }
  }
}

void transform_rows_in_vectors(const RowGrid& in, const RowCounts& counts,
                               const RowTransform& transform, float* out, const RowRanges& ranges) {
  core::with_element_type(in.dtype, [&]<class T>(T) HWY_ATTR {
    if constexpr (HWY_TARGET != HWY_SCALAR && sizeof(T) > 1) {
      if (fits_registers<8>(counts.dim, transform.rope)) {
        return transform_rows_of<8, T>(in, counts, transform, out, ranges);
      }
      if (fits_registers<4>(counts.dim, transform.rope)) {
        return transform_rows_of<4, T>(in, counts, transform, out, ranges);
      }
    }
    transform_rows_of<0, T>(in, counts, transform, out, ranges);
  });
}

void center_rows_in_vectors(float* rows, const RowCounts& counts, const HeadRows& mean,
                            const RowRanges& ranges) {
  HWY_ALIGN float mean_buffer[kMaxDim];
  for (std::int64_t r = 0; r < counts.rows(); ++r) {
    const float* head_mean = contiguous_row(mean, r % counts.heads, counts.dim, mean_buffer);
    const RowRange range = center_any_row(rows + r * counts.dim, head_mean, counts.dim);
    ranges.amax[r] = range.amax;
    ranges.finite[r] = range.finite;
  }
}

void hadamard_row_in_vectors(float* row, std::int64_t dim) {
  const RowTransform transform{.hadamard = true};
  transform_any_row(Source<float>{row, 1.0f}, transform, {}, dim, row);
}

}  // namespace
}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(transform_rows_in_vectors);
HWY_EXPORT(center_rows_in_vectors);
HWY_EXPORT(hadamard_row_in_vectors);

void transform_rows(const RowGrid& in, const RowCounts& counts, const RowTransform& transform,
                    float* out, const RowRanges& ranges) {
  HWY_DYNAMIC_DISPATCH(transform_rows_in_vectors)(in, counts, transform, out, ranges);
}

void center_rows(float* rows, const RowCounts& counts, const HeadRows& mean,
                 const RowRanges& ranges) {
  HWY_DYNAMIC_DISPATCH(center_rows_in_vectors)(rows, counts, mean, ranges);
}

void hadamard_row(float* row, std::int64_t dim) {
  HWY_DYNAMIC_DISPATCH(hadamard_row_in_vectors)(row, dim);
}

}  // namespace sotto::cpu
#endif

#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reduce_rows.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h includes this file once per target; what follows sees a target's namespace.
#include "cpu/reduce_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/element.h"
#include "cpu/rows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {
namespace {

// The largest of a row's codes without their signs: the order of the magnitudes.
template <class T, class Code>
HWY_INLINE Code largest_code(const T* row, std::int64_t dim) {
  constexpr Code kMagnitude = std::numeric_limits<Code>::max() >> 1;
  const Code* codes = reinterpret_cast<const Code*>(row);
  const hn::CappedTag<Code, 64 / sizeof(Code)> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto magnitudes = [=](std::int64_t i) HWY_ATTR {
    return hn::And(hn::LoadU(d, codes + i), hn::Set(d, kMagnitude));
  };
  auto largest = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= dim; i += 2 * lanes) {
    largest = hn::Max(largest, hn::Max(magnitudes(i), magnitudes(i + lanes)));
  }
  for (; i + lanes <= dim; i += lanes) largest = hn::Max(largest, magnitudes(i));
  Code result = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < dim; ++i) result = std::max<Code>(result, codes[i] & kMagnitude);
  return result;
}

template <class T>
void measure_rows_of(const RowGrid& rows, const RowCounts& counts, const RowRanges& ranges) {
  using Code = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>;
  const RowPrefetcher prefetch(rows, counts);
  for (std::int64_t token = 0, r = 0; token < counts.tokens; ++token) {
    for (std::int64_t head = 0; head < counts.heads; ++head, ++r) {
      const T* row = reinterpret_cast<const T*>(rows.row(token, head));
      prefetch(row);
      float amax = static_cast<float>(std::bit_cast<T>(largest_code<T, Code>(row, counts.dim)));
      const bool finite = std::isfinite(amax);
      if (!finite) {
        amax = std::bit_cast<float>(max_over(counts.dim, [&](auto d, std::int64_t i) HWY_ATTR {
          return finite_magnitude_bits(d, load(d, row + i));
        }));
      }
      ranges.amax[r] = amax;
      ranges.finite[r] = finite;
    }
  }
}

void measure_rows_in_vectors(const RowGrid& rows, const RowCounts& counts,
                             const RowRanges& ranges) {
  with_float_type(rows.dtype,
                  [&]<class T>(T) HWY_ATTR { measure_rows_of<T>(rows, counts, ranges); });
}

// All rows of a head at once, so that its sums stay in registers.
template <class T>
void accumulate_finite(const RowGrid& rows, std::int64_t tokens, std::int64_t head,
                       std::int64_t dim, double* sum, double* count) {
  const auto sum_channels = [&](auto d, std::int64_t i) HWY_ATTR {
    const hn::Rebind<float, decltype(d)> df;
    auto total = hn::LoadU(d, sum + i);
    for (std::int64_t token = 0; token < tokens; ++token) {
      const T* row = reinterpret_cast<const T*>(rows.row(token, head));
      total = hn::Add(total, hn::PromoteTo(d, load(df, row + i)));
    }
    hn::StoreU(total, d, sum + i);
  };
  const hn::CappedTag<double, 8> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= dim; i += lanes) sum_channels(d, i);
  for (; i < dim; ++i) sum_channels(hn::CappedTag<double, 1>(), i);
  for (i = 0; i < dim; ++i) count[i] += static_cast<double>(tokens);
}

template <class T>
void accumulate_any(const T* row, std::int64_t dim, double* sum, double* count) {
  for (std::int64_t i = 0; i < dim; ++i) {
    const auto x = static_cast<float>(row[i]);
    if (!std::isfinite(x)) continue;
    sum[i] += x;
    count[i] += 1.0;
  }
}

void accumulate_rows_in_vectors(const RowGrid& rows, const RowCounts& counts,
                                const RowRanges& ranges, double* sum, double* count) {
  const bool finite =
      std::all_of(ranges.finite, ranges.finite + counts.rows(), [](bool f) { return f; });
  with_float_type(rows.dtype, [&]<class T>(T) HWY_ATTR {
    for (std::int64_t head = 0; head < counts.heads; ++head) {
      double* head_sum = sum + head * counts.dim;
      double* head_count = count + head * counts.dim;
      if (finite) {
        accumulate_finite<T>(rows, counts.tokens, head, counts.dim, head_sum, head_count);
        continue;
      }
      for (std::int64_t token = 0; token < counts.tokens; ++token) {
        accumulate_any(reinterpret_cast<const T*>(rows.row(token, head)), counts.dim, head_sum,
                       head_count);
      }
    }
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
  return static_cast<float>(std::clamp<double>(exact, -kLargestFloat, kLargestFloat));
}

}  // namespace
}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(measure_rows_in_vectors);
HWY_EXPORT(accumulate_rows_in_vectors);
HWY_EXPORT(dot_row_in_vectors);

void measure_rows(const RowGrid& rows, const RowCounts& counts, const RowRanges& ranges) {
  HWY_DYNAMIC_DISPATCH(measure_rows_in_vectors)(rows, counts, ranges);
}

void accumulate_rows(const RowGrid& rows, const RowCounts& counts, const RowRanges& ranges,
                     double* sum, double* count) {
  HWY_DYNAMIC_DISPATCH(accumulate_rows_in_vectors)(rows, counts, ranges, sum, count);
}

float dot_row(const float* a, const float* b, std::int64_t dim, float factor) {
  return HWY_DYNAMIC_DISPATCH(dot_row_in_vectors)(a, b, dim, factor);
}

}  // namespace sotto::cpu
#endif

// What the steps over rows share. Included once per SIMD target, after hwy/highway.h.
#if defined(SOTTO_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_ROWS_INL_H_
#undef SOTTO_CPU_ROWS_INL_H_
#else
#define SOTTO_CPU_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/convert-inl.h"
#include "cpu/row_grid.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

inline constexpr float kLargestFloat = std::numeric_limits<float>::max();
inline constexpr std::uint32_t kInfinityBits = 0x7f800000u;

template <class D>
HWY_INLINE hn::Mask<D> is_finite(D d, hn::Vec<D> x) {
  return hn::Le(hn::Abs(x), hn::Set(d, kLargestFloat));
}

// Magnitudes as bits, whose order is the same. Infinities and NaN are kInfinityBits and above.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> magnitude_bits(D, hn::Vec<D> x) {
  return hn::BitCast(hn::RebindToUnsigned<D>(), hn::Abs(x));
}

// The same, 0 for what is not finite.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> finite_magnitude_bits(D d, hn::Vec<D> x) {
  return magnitude_bits(d, hn::IfThenElseZero(is_finite(d, x), x));
}

// The largest of the bits that f(tag, i) returns for all vectors of [0, n).
template <class F>
HWY_INLINE std::uint32_t max_over(std::int64_t n, F&& f) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(du);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto a = hn::Max(f(d, i), f(d, i + lanes));
    const auto b = hn::Max(f(d, i + 2 * lanes), f(d, i + 3 * lanes));
    largest = hn::Max(largest, hn::Max(a, b));
  }
  for (; i + lanes <= n; i += lanes) largest = hn::Max(largest, f(d, i));
  std::uint32_t result = hn::GetLane(hn::MaxOfLanes(du, largest));
  for (; i < n; ++i) result = std::max(result, hn::GetLane(f(hn::CappedTag<float, 1>(), i)));
  return result;
}

// Fetches what a loop over rows, heads inside tokens, will read some rows later. The processor's
// own prefetching stops at pages and while a panel is rounded.
class RowPrefetcher {
 public:
  RowPrefetcher(const RowGrid& rows, const RowCounts& counts)
      : bytes_(counts.dim * dtype_size(rows.dtype)) {
    constexpr std::int64_t kBytesAhead = 4096;
    const std::int64_t ahead =
        std::max<std::int64_t>(1, kBytesAhead / std::max<std::int64_t>(1, bytes_));
    offset_ = counts.heads >= ahead
                  ? ahead * rows.head_stride
                  : std::max<std::int64_t>(1, ahead / counts.heads) * rows.token_stride;
  }

  HWY_INLINE void operator()(const void* row) const {
    const char* later = static_cast<const char*>(row) + offset_;
    for (std::int64_t i = 0; i < bytes_; i += 64) hwy::Prefetch(later + i);
  }

 private:
  std::int64_t bytes_, offset_;
};

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

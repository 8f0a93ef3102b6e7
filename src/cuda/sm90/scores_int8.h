// From INT8 Q·K, summed in 32-bit integers, to probabilities in e4m3.
//
// A score x = S·unit, in units of log 2, becomes P = 2^(x - max + kTop); see scores_e4m3.h for the
// running maximum. Every score is turned into fixed point by one multiply-add,
//     t = S·rint(unit·2^21) + rint((kTop - max)·2^21 + lost·pivot) + 2^15,
// whose upper half is x - max + kTop in units of 1/32, rounded, whatever the scales. The multiplier
// has few bits where S is large (a value of 40 and less with outlier channels). What its rounding
// loses, lost = unit·2^21 - rint(unit·2^21), is put right for the row's largest score, the pivot,
// and nearly so for those that count beside it. One packed add-and-floor then makes of the upper
// half the bits of the half number x - max + kTop + 55 (one between 32 and 64 counts in units of
// 1/32). From there
//     n + h = that number, n an integer, 0 <= h < 1;   code = 8·n + (2.7·h + 5.22)·h + constant
// for seven of eight probabilities, the exponential unit and a conversion for the others.
//
// t must not wrap: |x - max| < 1024, hence |x| <= 500, which holds where |q|·|k|·unit does. Rows
// where it may not (logits of hundreds) are converted through floats and clamped instead; that
// costs time, not accuracy.
//
// In a row that a few keys dominate, the largest P must be exact (a power of two), or its rounding
// error is the row's: there the maximum moves at every step, not only when it is exceeded by
// kSlack. What counts in such a row may also lie far below its largest P (behind a sink token):
// kTop is as high as it can be, 2^(kTop + kSlack) just becomes 448.
#pragma once

#include "cuda/common/wgmma.h"
#include "cuda/sm90/key_mask.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

template <int kKeys, bool kFast>
class Int8Scores {
 public:
  using Mma = cuda::MmaSs<cuda::Int8ToS32, kKeys>;
  static constexpr int kCount = Mma::kCount;
  static constexpr int kPairs = kCount / 2;
  using Tile = std::uint32_t[kCount];
  using Codes = std::uint32_t[kKeys / 8];

  __device__ __forceinline__ void start(const Params&) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      max[r] = kNone;
      sum[r] = 0;
      pivot_[r] = 0;
    }
    limit_ = cuda::twice(kLimit);
    odd_ = kUnseen;
  }

  // Before each tile. `units`: of the rows, x = S·unit; `bound`: no |x| of the warp's rows exceeds
  // it (NaN: not known). True where the maxima must be found anew.
  __device__ __forceinline__ bool set_units(const Params& p, const float (&units)[2], float bound) {
#pragma unroll
    for (int r = 0; r < 2; ++r) set_line(r, p.softcap_log2 > 0 ? kUnit : units[r]);
    cuda::pin(offset_);  // here, beside the products, not where the scores wait for it
    const float reach = p.softcap_log2 > 0 ? p.softcap_log2 : bound;
    wide_ = odd_ == kFar || !(bound >= 0 && reach <= kWidest);
    return wide_ || odd_ != kNoRow;
  }

  __device__ __forceinline__ bool is_rare() const { return false; }
  __device__ __forceinline__ void before(Tile&) const {}

  // x becomes softcap·tanh((x + bias) / softcap), in fixed point: in units of cap_unit().
  static __device__ __forceinline__ void cap(const Params& p, Tile& s, const float (&units)[2],
                                             const float (&bias)[2]) {
    const float inverse = 1.0f / p.softcap_log2, steps = p.softcap_log2 / cap_unit(p);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = i >> 1 & 1;
      const float x = fmaf(static_cast<float>(static_cast<int>(s[i])), units[r], bias[r]);
      s[i] = static_cast<std::uint32_t>(__float2int_rn(steps * cuda::tanh_approx(x * inverse)));
    }
  }

  // As E4m3Scores. Leaves x - max + kTop in units of 1/32, two in a register, in the first half of
  // S.
  template <class Mask, class Units>
  __device__ __forceinline__ bool prepare(const Params& p, Tile& s, bool find, bool masked,
                                          const Mask& mask, const Units& units,
                                          float (&shrink)[2]) {
    if (__builtin_expect(find, 0)) {
      float unit[2];
      units(unit);
      if (p.softcap_log2 > 0) {
#pragma unroll
        for (float& u : unit) u = u != u ? u : cap_unit(p);
      }
      find_maxima(s, mask(), unit, shrink);
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const std::uint32_t m = multiplier_[i & 1], n = offset_[i & 1];
      s[i] = cuda::select_bytes(s[2 * i] * m + n, s[2 * i + 1] * m + n, 0x7632);
    }
    bits_[0] = bits_[1] = kBits;
    std::uint32_t top = tile_top(s);
    if (!__any_sync(~0u, is_above(top) | find | masked)) return false;
    if (masked) {
      mask().template hide<kPairs>(s, 0xc000c000u);
      top = tile_top(s);
    }
    if (__any_sync(~0u, is_above(top))) {
      move_maxima(top, find, shrink);
      return true;
    }
    return find;
  }

  __device__ __forceinline__ void encode(const Tile& y, Codes& codes) const {
#pragma unroll
    for (int u = 0; u < kKeys / 8; ++u) {
      const int r = u & 1, j = u / 2 * 2;
      const bool direct = u / 2 * 5 % 8 < kDirect;
      const std::uint32_t floor = direct ? kCodeFloor : kExpFloor;
      const Half2 a = __viaddmax_s16x2(y[2 * j + r], bits_[r], floor);
      const Half2 b = __viaddmax_s16x2(y[2 * j + 2 + r], bits_[r], floor);
      if (direct && kFast) {
        codes[u] = cuda::select_bytes(cuda::fma2(a, cuda::twice_constant(8), kCodeBase),
                                      cuda::fma2(b, cuda::twice_constant(8), kCodeBase), 0x6420);
      } else if (direct) {
        codes[u] = cuda::select_bytes(code(a), code(b), 0x6420);
      } else {
        // The linear code's P are too large by 2^0.0566 on average.
        const Half2 shift = cuda::twice_constant(kFast ? -55 + 0.0625 : -55);
        codes[u] =
            cuda::to_e4m3(cuda::exp2_2(cuda::add2(a, shift)), cuda::exp2_2(cuda::add2(b, shift)));
      }
    }
  }

  __device__ __forceinline__ float log2_sum(int row, float total) const {
    if (total != total) return total;
    return max[row] > kNone ? max[row] - kTop + cuda::log2_approx(total) : -INFINITY;
  }

  float max[2];
  float sum[2];

 private:
  static constexpr float kNone = -1e30f;
  static constexpr float kTop = 8.0f, kSlack = 0.8125f;
  static constexpr float kWidest = 500.0f;
  // A row's maximum and the sum of its P where few keys dominate.
  static constexpr float kPeak = 7.0f, kPeakSum = 8 * 256.0f;
  static constexpr int kStepBits = 5;
  static constexpr float kSteps = 1 << kStepBits;                 // fixed point: 1/32
  static constexpr float kUnit = 1.0f / (1 << (16 + kStepBits));  // of t
  static constexpr float kOffset = kTop / kUnit + 0x8000;         // of t, before the maximum
  static constexpr float kLargestUnit = 1e30f;
  static constexpr int kHidden = -2147483647 - 1;
  // A maximum beyond kWidest may lie further out than anything in a later tile.
  static constexpr int kNoRow = 0, kUnseen = 1, kFar = 2;
  // A half in [32, 64) has the bits 0x5000 + 32·(value - 32); ours is x' + 55.
  static constexpr std::uint32_t bits_of(int x) {
    return 0x5000u + static_cast<std::uint32_t>((x + 23) * 32);
  }
  static constexpr std::uint32_t kBits = cuda::twice(bits_of(0));
  static constexpr std::uint32_t kCodeFloor = cuda::twice(bits_of(-7));  // code 0
  static constexpr std::uint32_t kExpFloor = cuda::twice(bits_of(-11));  // rounds to 0
  static constexpr int kTopSteps = static_cast<int>(kTop * kSteps);
  static constexpr std::uint32_t kLimit = kTopSteps + static_cast<int>(kSlack * kSteps);

  // The thread's largest prepared scores of row 0 and of row 1.
  static __device__ __forceinline__ std::uint32_t tile_top(const Tile& s) {
    std::uint32_t top[2] = {s[0], s[1]};
#pragma unroll
    for (int i = 2; i < kPairs; i += 4) {
      top[0] = __vimax3_s16x2(top[0], s[i], i + 2 < kPairs ? s[i + 2] : s[i]);
      top[1] = __vimax3_s16x2(top[1], s[i + 1], i + 2 < kPairs ? s[i + 3] : s[i + 1]);
    }
    return __vmaxs2(cuda::select_bytes(top[0], top[1], 0x5410),
                    cuda::select_bytes(top[0], top[1], 0x7632));
  }
  __device__ __forceinline__ bool is_above(std::uint32_t top) const {
    return __vmaxs2(top, limit_) != limit_;
  }
  __device__ __forceinline__ int limit(int row) const {
    return static_cast<int>(row == 0 ? limit_ & 0xffff : limit_ >> 16);
  }

  // From the scores themselves: for a first tile, and for one that goes through floats.
  __device__ __forceinline__ void find_maxima(Tile& s, const KeyMask& mask, float (&unit)[2],
                                              float (&shrink)[2]) {
    bool unseen = false, far = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // Scales of hostile tensors: a NaN stays.
      if (fabsf(unit[r]) > kLargestUnit) unit[r] = copysignf(kLargestUnit, unit[r]);
      const bool negate = unit[r] < 0;
      int top = kHidden;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i) {
        const int column = 8 * (i >> 1) + (i & 1);
        const int value = static_cast<int>(s[4 * (i >> 1) + 2 * r + (i & 1)]);
        top = max_of(top, mask.sees(r, column) ? (negate ? -value : value) : kHidden);
      }
      top = row_max(top);
      const float x = static_cast<float>(top) * fabsf(unit[r]);
      const bool seen = top != kHidden;
      if (seen && x != x) sum[r] = x;  // a NaN among the scales is one of the row
      // Only rows that must: none depends on another.
      const float slack = static_cast<float>(limit(r) - kTopSteps) * (1 / kSteps);
      const bool moves = seen && (max[r] > kNone ? x > max[r] + slack : x == x);
      shrink[r] = 1;
      if (moves) shrink[r] = move(r, x, static_cast<float>(negate ? -top : top));
      unseen |= max[r] <= kNone;
      far |= max[r] > kNone && fabsf(max[r]) > kWidest;
      set_line(r, unit[r]);
    }
    odd_ = __any_sync(~0u, far) ? kFar : __any_sync(~0u, unseen) ? kUnseen : kNoRow;
    if (!wide_) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = i >> 1 & 1;
      const float x = fmaf(static_cast<float>(static_cast<int>(s[i])), unit[r],
                           max[r] > kNone ? -max[r] : 0.0f);
      s[i] = static_cast<std::uint32_t>(
          __float2int_rn(fminf(fmaxf(x, -kWidest), kWidest) * (1 / kUnit)));
    }
    multiplier_[0] = multiplier_[1] = 1;
    offset_[0] = offset_[1] = static_cast<std::uint32_t>(kOffset);
  }

  // `top`: the thread's largest y of row 0 and of row 1. What is above kTop is taken off by bits_.
  __device__ __forceinline__ void move_maxima(std::uint32_t top, bool found, float (&shrink)[2]) {
    top = __vmaxs2(top, __shfl_xor_sync(~0u, top, 1));
    top = __vmaxs2(top, __shfl_xor_sync(~0u, top, 2));
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int y = static_cast<short>(r == 0 ? top & 0xffff : top >> 16);
      if (!found) shrink[r] = 1;
      if (y <= limit(r)) continue;
      const int above = y - kTopSteps;
      const float next = max[r] + static_cast<float>(above) * (1 / kSteps);
      // The score that has this y; a multiplier of 0 makes all the same.
      const int t = static_cast<int>((static_cast<std::uint32_t>(y) << 16) - offset_[r]);
      const int m = static_cast<int>(multiplier_[r]);
      shrink[r] *=
          move(r, next, m == 0 ? 0.0f : __fdividef(static_cast<float>(t), static_cast<float>(m)));
      bits_[r] = cuda::twice((kBits - static_cast<std::uint32_t>(above)) & 0xffff);
    }
  }

  // The maximum of a row to `next`, the score `pivot`. What everything summed before shrinks by.
  __device__ __forceinline__ float move(int r, float next, float pivot) {
    const float shrink = cuda::exp2_approx(max[r] - next);
    const bool peaked = next > kPeak && sum[r] * shrink < kPeakSum;
    const std::uint32_t limit = peaked ? kTopSteps : kLimit;
    limit_ = r == 0 ? (limit_ & 0xffff0000u) | limit : (limit_ & 0xffffu) | limit << 16;
    max[r] = next;
    pivot_[r] = pivot;
    return shrink;
  }
  static __device__ __forceinline__ int max_of(int a, int b) { return a > b ? a : b; }

  // t of a row, from x = S·unit.
  __device__ __forceinline__ void set_line(int r, float unit) {
    const float exact = unit * (1 / kUnit);
    const int multiplier = __float2int_rn(exact);
    const float lost = exact - static_cast<float>(multiplier);
    const float offset = fmaf(lost, pivot_[r], fmaf(max[r], -1 / kUnit, kOffset));
    multiplier_[r] = static_cast<std::uint32_t>(multiplier);
    offset_[r] = static_cast<std::uint32_t>(__float2int_rn(offset));
  }
  // Of capped scores.
  static __device__ __forceinline__ float cap_unit(const Params& p) {
    return fmaxf(1.0f, p.softcap_log2 / kWidest) * kUnit;
  }

  // y: x' + 55.
  static __device__ __forceinline__ Half2 code(Half2 y) {
    const Half2 n = y & 0xffe0ffe0u;
    const Half2 h = cuda::sub2(y, n);
    const Half2 base = cuda::fma2(n, cuda::twice_constant(8), kCodeBase);
    const Half2 curve =
        cuda::fma2(h, cuda::twice_constant(2.69921875), cuda::twice_constant(5.2265625));
    return cuda::fma2(curve, h, base);
  }
  static constexpr Half2 kCodeBase = cuda::twice_constant(1024 + 56 - 8 * 55);
  static constexpr int kDirect = 7;  // of 8

  std::uint32_t multiplier_[2], offset_[2];  // t = S·multiplier + offset
  float pivot_[2];         // the largest score of each row when its maximum last moved
  std::uint32_t limit_;    // y from which on the maxima move: rows 0 and 1
  std::uint32_t bits_[2];  // what makes halves of prepared scores
  int odd_;                // whether some row of the warp has no maximum yet, or one far out
  bool wide_;              // this tile goes through floats
};

}  // namespace sotto::sm90

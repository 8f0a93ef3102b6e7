// From e4m3 Q·K, summed in halves, to probabilities in e4m3.
//
// A score x = S·unit, in units of log 2, becomes P = 2^(x - max + kTop + kGain). `max` is a running
// maximum of the row that moves only where a score exceeds it by more than kSlack: then everything
// that was summed is rescaled, which is rare. P cannot exceed 448: kTop + kSlack + kGain < 8.8.
//
// Half of the probabilities are computed as their code. log2 P in fixed point with three fraction
// bits is the e4m3 code but for the curve of the mantissa (as in Schraudolph's exponential), and a
// quadratic puts that right. With integer K = kTop - max:
//     n + h = x + K,  n an integer, |h| <= 1/2
//     code  = 8·n + (2.7·h + 7.7)·h + 59           59 = 8·7 (the bias of e4m3) + 3
// which rounds P·2^-0.4584 as well as a conversion does (RMS error 2.65 %). The other half takes
// the exponential unit and a conversion, so that both pipes work.
#pragma once

#include "cuda/common/wgmma.h"
#include "cuda/sm90/key_mask.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

template <int kKeys, bool kFast>
class E4m3Scores {
 public:
  using Mma = cuda::MmaSs<cuda::E4m3ToF16, kKeys>;
  static constexpr int kCount = Mma::kCount;  // registers of S
  using Tile = std::uint32_t[kCount];
  using Codes = std::uint32_t[kKeys / 8];
  static constexpr float kLargestUnit = 65504;  // of halves
  // Maxima beyond which K leaves too few bits for fractions: the scores of such a row are taken
  // relative to its maximum first.
  static constexpr float kFar = 32;

  __device__ __forceinline__ void start(const Params&) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      max[r] = kNone;
      sum[r] = 0;
    }
    relative_ = false;
  }

  // Before the first tile, and before each one whose keys have another scale. `units`: of the rows,
  // x = S·unit. True where the maxima must be found anew.
  __device__ __forceinline__ bool set_units(const Params& p, const float (&units)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      factor_[r] = cuda::twice(p.softcap_log2 > 0 ? fminf(p.softcap_log2, kLargestUnit) : units[r]);
      // Not 0, which would make NaN of what is hidden.
      if ((factor_[r] & 0x7fffu) == 0) factor_[r] = 0x00010001u;
    }
    set_constants();
    return relative_;
  }

  // x becomes softcap·tanh((x + bias) / softcap); bias in units of log 2. S is then the tanh.
  static __device__ __forceinline__ void cap(const Params& p, Tile& s, const float (&units)[2],
                                             const float (&bias)[2]) {
    const Half2 inverse = cuda::twice(1.0f / p.softcap_log2);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Half2 x = cuda::fma2(s[i], cuda::twice(units[i & 1]), cuda::twice(bias[i & 1]));
      s[i] = cuda::tanh2(cuda::mul2(x, inverse));
    }
  }

  // Whether the tile that comes is out of the ordinary; then before() is called first.
  __device__ __forceinline__ bool is_rare() const { return relative_; }
  __device__ __forceinline__ void before(Tile& s) const {
    if (relative_) subtract(s, shift(0), shift(1));
  }

  // Prepares the scores of a tile, S, for encode(). True where the maxima moved: then everything
  // summed before shrinks by `shrink`. `find`: the maxima must be found anew.
  template <class Mask, class Units>
  __device__ __forceinline__ bool prepare(const Params& p, Tile& s, bool find, bool masked,
                                          const Mask& mask, const Units&, float (&shrink)[2]) {
    Half2 top = tile_top(s);
    const bool above = cuda::any_above_or_nan(top, threshold_);
    if (!__any_sync(~0u, above | find | masked)) return false;
    if (masked) {
      mask().template hide<kCount>(s, kMinusInf);
      top = tile_top(s);
      if (!__any_sync(~0u, cuda::any_above_or_nan(top, threshold_)) && !find) return false;
    }
    move_maxima(p, s, top, find, shrink);
    return true;
  }

  // P of a tile that was prepared.
  __device__ __forceinline__ void encode(const Tile& s, Codes& codes) const {
    Half2 sixteenth[2], rest[2], exponent[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sixteenth[r] = cuda::mul2(factor_[r], cuda::twice_constant(0.0625));
      const Half2 k = cuda::sub2(add_[r], cuda::twice_constant(kMagic));
      rest[r] = cuda::fma2(k, cuda::twice_constant(8), cuda::twice_constant(1083));
      exponent[r] = cuda::add2(k, cuda::twice_constant(kGain));
    }
#pragma unroll
    for (int u = 0; u < kKeys / 8; ++u) {
      const int r = u & 1, j = u / 2 * 2;
      const bool direct = u / 2 * 5 % 8 < 4;
      const Half2 a = s[2 * j + r], b = s[2 * j + 2 + r];
      if (kFast) {
        codes[u] = cuda::select_bytes(fast_code(a, sixteenth[r], r), fast_code(b, sixteenth[r], r),
                                      0x6420);
      } else if (direct) {
        codes[u] = cuda::select_bytes(code(a, r, rest[r]), code(b, r, rest[r]), 0x6420);
      } else {
        codes[u] = cuda::to_e4m3(cuda::exp2_2(cuda::fma2(a, factor_[r], exponent[r])),
                                 cuda::exp2_2(cuda::fma2(b, factor_[r], exponent[r])));
      }
    }
  }

  // log2 of what the sum of a row's P counts.
  __device__ __forceinline__ float log2_sum(int row, float total) const {
    const float gain = kFast ? kFastGain : kGain;
    if (total != total) return total;
    return max[row] > kNone ? max[row] - kTop - gain + cuda::log2_approx(total) : -INFINITY;
  }

  float max[2];  // in units of log 2; kNone: no key was seen yet
  float sum[2];  // of P

 private:
  static constexpr Half2 kMinusInf = 0xfc00fc00u;
  static constexpr float kNone = -1e30f;
  static constexpr float kTop = 6.0f, kSlack = 2.2f, kGain = 0.4584f, kFastGain = 0.0566f;
  static constexpr float kMagic = 1536.0f;  // added to a half below 512 it leaves the integer

  static __device__ __forceinline__ void subtract(Tile& s, Half2 row0, Half2 row1) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) s[i] = cuda::sub2(s[i], i & 1 ? row1 : row0);
  }

  // The thread's largest scores of row 0 and of row 1; NaN if there is one.
  static __device__ __forceinline__ Half2 tile_top(const Tile& s) {
    Half2 top[2] = {s[0], s[1]};
#pragma unroll
    for (int i = 2; i < kCount; i += 4) {
      top[0] = cuda::max2_nan(cuda::max2_nan(top[0], s[i]), i + 2 < kCount ? s[i + 2] : s[i]);
      top[1] =
          cuda::max2_nan(cuda::max2_nan(top[1], s[i + 1]), i + 2 < kCount ? s[i + 3] : s[i + 1]);
    }
    return cuda::max2_nan(cuda::select_bytes(top[0], top[1], 0x5410),
                          cuda::select_bytes(top[0], top[1], 0x7632));
  }

  __device__ __forceinline__ void move_maxima(const Params& p, Tile& s, Half2 top, bool find,
                                              float (&shrink)[2]) {
    top = cuda::max2_nan(top, __shfl_xor_sync(~0u, top, 1));
    top = cuda::max2_nan(top, __shfl_xor_sync(~0u, top, 2));
    float next[2];
    bool far = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float score = r == 0 ? cuda::low_of(top) : cuda::high_of(top);
      const float limit = r == 0 ? cuda::low_of(threshold_) : cuda::high_of(threshold_);
      const float x = ceilf((score + cuda::low_of(shift(r))) * unit(r));
      if (x != x) sum[r] = x;  // a NaN among the scores or scales is one of the row
      // Only rows that must: none depends on another.
      next[r] = score > -INFINITY && (find || score > limit) ? fmaxf(max[r], x) : max[r];
      far |= is_far(next[r]);
    }
    far = __any_sync(~0u, far);
    if (__builtin_expect(far | relative_, 0)) {
      Half2 step[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Half2 then = shift_to(next[r], r);
        step[r] = cuda::sub2(then, shift(r));
        if (!is_far(next[r])) continue;
        // The maximum is what was subtracted, and a whole number where that is out of reach.
        const float reached = cuda::low_of(then) * unit(r);
        const bool beyond = fabsf(next[r]) > kLargestUnit * fabsf(unit(r));
        next[r] = reached + (beyond ? rintf(next[r] - reached) : 0.0f);
      }
      subtract(s, step[0], step[1]);
      relative_ = far;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shrink[r] = cuda::exp2_approx(max[r] - next[r]);
      max[r] = next[r];
    }
    set_constants();
  }

  __device__ __forceinline__ float unit(int row) const { return cuda::low_of(factor_[row]); }
  static __device__ __forceinline__ bool is_far(float max) {
    return max > kNone && fabsf(max) > kFar;
  }
  // What is subtracted from the scores of a row before they are scaled: 0 unless it is far.
  __device__ __forceinline__ Half2 shift(int row) const { return shift_to(max[row], row); }
  __device__ __forceinline__ Half2 shift_to(float max, int row) const {
    if (!is_far(max)) return 0;
    const float shift = max / unit(row);
    return cuda::twice(fabsf(shift) > kLargestUnit ? copysignf(kLargestUnit, shift) : shift);
  }

  __device__ __forceinline__ void set_constants() {
    std::uint32_t bits[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // A whole number, of the scores as they are after the shift.
      const float base = max[r] <= kNone  ? 0.0f
                         : is_far(max[r]) ? rintf(max[r] - cuda::low_of(shift(r)) * unit(r))
                                          : max[r];
      const float k = kTop - base;
      add_[r] = cuda::twice(kFast ? (k + 7.0f) / 16.0f : k + kMagic);
      const float limit = (base + kSlack) / unit(r);
      bits[r] = max[r] > kNone ? __half_as_ushort(__float2half_rd(limit)) : 0xfc00u;
    }
    threshold_ = bits[0] | (bits[1] << 16);
  }

  // The code in the low byte of each half.
  __device__ __forceinline__ Half2 code(Half2 s, int r, Half2 rest) const {
    const Half2 n = cuda::fma2(s, factor_[r], add_[r]);
    const Half2 b = cuda::sub2(add_[r], n);
    const Half2 h = cuda::fma2(s, factor_[r], b);
    const Half2 base = cuda::fma2(b, cuda::twice_constant(-8), rest);
    const Half2 curve =
        cuda::fma2(h, cuda::twice_constant(2.69921875), cuda::twice_constant(7.69921875));
    return cuda::max2(cuda::fma2(curve, h, base), cuda::twice_constant(1024));
  }
  // Without the curve: RMS error 3.14 %, two instructions.
  __device__ __forceinline__ Half2 fast_code(Half2 s, Half2 factor, int r) const {
    return cuda::fma2(cuda::fma2_sat(s, factor, add_[r]), cuda::twice_constant(128),
                      cuda::twice_constant(1024));
  }

  Half2 factor_[2];  // x = S·factor
  Half2 add_[2];     // K in the form that the way to codes wants
  Half2 threshold_;  // S from which on the maxima move: rows 0 and 1
  bool relative_;    // some row of the warp is far
};

}  // namespace sotto::sm90

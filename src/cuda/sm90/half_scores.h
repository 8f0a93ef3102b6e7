// From Q·K in fp32 to probabilities in 16 bits.
//
// A score x = S·factor, in units of log 2, becomes P = 2^(x - max + kTop). `max` is a maximum of
// the row that is found in its first tile of keys and moves only where the P of a later tile add up
// to more than kLimit, which is rare: nobody looks for maxima otherwise. P that are halves hold
// kLimit, and still 2^-24: what lies 29 steps below the maximum; bf16 P and all sums lose nothing,
// and are small enough that no finite V makes P·V overflow. A row with a NaN, or whose scores
// overflow, comes out with a NaN for its sum, see half_lost_rows.h.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "cuda/common/wgmma.h"
#include "cuda/sm90/epilogue.h"
#include "cuda/sm90/key_mask.h"

namespace sotto::sm90 {

template <bool kBf16, int kKeys>
class HalfScores {
 public:
  using Mma = cuda::MmaSs<std::conditional_t<kBf16, cuda::Bf16ToF32, cuda::F16ToF32>, kKeys>;
  static constexpr int kCount = Mma::kCount;
  using Tile = float[kCount];
  using Pairs = std::uint32_t[kCount / 2];  // P, two keys in a register

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      max[r] = kNone;
      sum[r] = 0;
    }
  }

  // x becomes softcap·tanh((x + bias) / softcap); bias in units of log 2. S is then x.
  static __device__ __forceinline__ void cap(const Params& p, Tile& s, const float (&bias)[2]) {
    const float twice_inverse = 2 * kLog2e / p.softcap_log2;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float x = fmaf(s[i], p.scale_log2, bias[i >> 1 & 1]);
      // tanh(y) = 1 - 2 / (1 + e^2y): tanh.approx has only 11 bits.
      const float e = fminf(cuda::exp2_approx(x * twice_inverse), 1e30f);
      s[i] = x != x ? x : p.softcap_log2 * (1.0f - __fdividef(2.0f, 1.0f + e));
    }
  }

  // Hidden scores become -inf; S is then x.
  static __device__ __forceinline__ void hide(Tile& s, float factor, const KeyMask& mask) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      s[i] = mask.sees(i >> 1 & 1, 8 * (i >> 2) + (i & 1)) ? s[i] * factor : -INFINITY;
    }
  }

  // P of a tile. True where maxima moved: then everything summed before shrinks by `shrink`. What
  // becomes of a row does not depend on its neighbours.
  __device__ __forceinline__ bool probabilities(Tile& s, float scale, Pairs& pairs,
                                                float (&shrink)[2]) {
    float factor[2] = {scale, scale}, base[2] = {kTop - max[0], kTop - max[1]}, tile[2];
    bool moved = false;
    bool move[2] = {!(fabsf(max[0]) < kFar), !(fabsf(max[1]) < kFar)};
    for (bool any = __any_sync(~0u, move[0] || move[1]);;) {
      if (any) {
        if (!moved) shrink[0] = shrink[1] = 1;
        moved = true;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float top = top_of_row(s, factor[r], r);
          if (!move[r]) continue;
          move_maximum(s, factor[r], base[r], r, top, shrink[r]);
          factor[r] = 1;
        }
      }
      exponentials(s, factor, base, pairs, tile);
      any = __any_sync(~0u, tile[0] > kLimit || tile[1] > kLimit);
      if (!any) break;  // after two moves of a row at the latest: they leave none above the maximum
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const unsigned lanes = __ballot_sync(~0u, tile[r] > kLimit);
        move[r] = (lanes >> (threadIdx.x & 28) & 15) != 0;  // a row is four threads
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] = (moved ? sum[r] * shrink[r] : sum[r]) + tile[r];
    return moved;
  }

  // The sum of a row's P, whose keys four threads share.
  __device__ __forceinline__ float total(int row) const {
    const float two = sum[row] + __shfl_xor_sync(~0u, sum[row], 1);
    return two + __shfl_xor_sync(~0u, two, 2);
  }
  // log2 of what that counts.
  __device__ __forceinline__ float log2_sum(int row, float total) const {
    if (total != total) return total;
    return max[row] > kNone ? max[row] - kTop + cuda::log2_approx(total) : -INFINITY;
  }

  float max[2];  // in units of log 2; kNone: no key was seen yet
  float sum[2];  // of the thread's P

 private:
  static constexpr float kNone = -INFINITY;
  // bf16: sums of P over 2^22 keys are below 1.
  static constexpr float kTop = kBf16 ? -28.0f : 5.0f, kLimit = kBf16 ? 0x1p-17f : 65504.0f;
  // From here on the maximum, a product rounded to fp32, is too far from the exact product that it
  // is subtracted from; such rows go the way of rows without a maximum.
  static constexpr float kFar = 1 << 24;

  // The largest x of a row.
  static __device__ __forceinline__ float top_of_row(const Tile& s, float factor, int r) {
    asm volatile("" : "+f"(factor));  // or else the search would be hoisted out of the rare branch
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      top = fmaxf(top, s[4 * (i >> 1) + 2 * r + (i & 1)] * factor);
    }
    return row_max(top);
  }

  // The row's S becomes x, or where that is far, x - max.
  __device__ __forceinline__ void move_maximum(Tile& s, float factor, float& base, int r, float top,
                                               float& shrink) {
    const float next = fmaxf(max[r], top);
    if (max[r] > kNone) shrink *= cuda::exp2_approx(max[r] - next);
    max[r] = next;
    base = kTop - next;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      float& x = s[4 * (i >> 1) + 2 * r + (i & 1)];
      x = __fmul_rn(x, factor);
    }
    if (fabsf(next) < kFar) return;
    base = kTop;
    if (next == kNone) return;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) s[4 * (i >> 1) + 2 * r + (i & 1)] -= next;
  }

  __device__ __forceinline__ void exponentials(const Tile& s, const float (&factor)[2],
                                               const float (&base)[2], Pairs& pairs,
                                               float (&tile)[2]) const {
    float sums[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const int r = i & 1;
      const float low = cuda::exp2_approx(fmaf(s[2 * i], factor[r], base[r]));
      const float high = cuda::exp2_approx(fmaf(s[2 * i + 1], factor[r], base[r]));
      sums[2 * r] += low;
      sums[2 * r + 1] += high;
      pairs[i] = pack16(kBf16 ? OutDtype::bf16 : OutDtype::f16, low, high);
    }
    tile[0] = sums[0] + sums[1];
    tile[1] = sums[2] + sums[3];
  }
};

}  // namespace sotto::sm90

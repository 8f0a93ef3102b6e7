// Rows whose scores the tensor cores' floats do not hold, done again: products of finite bf16 reach
// 2^256, and sums of them Inf - Inf. Slow, for input that hardly ever comes.
#pragma once

#include <cuda_fp16.h>

#include "cuda/sm90/work.h"

namespace sotto::sm90 {

// The thread's rows `row` and `row` + 8, which four threads share as store_rows() says.
template <bool kBf16>
class LostRows {
 public:
  // `lost`: the row came out as NaN, or as if it saw no key. By a whole warp.
  __device__ __forceinline__ LostRows(const Params& p, const Work& work, int row, int lane,
                                      const bool (&lost)[2])
      : p_(p), work_(work), row_(row), lane_(lane) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      keys_[r] = lost[r] ? keys_of_rows(p, work, row + 8 * r, row + 8 * r) : KeyRange{0, 0};
      if (keys_[r].begin < keys_[r].end &&
          !is_finite(p.q_rows, work.head, work.token_q + row + 8 * r)) {
        keys_[r] = {0, 0};
      }
    }
    all_ = {__reduce_min_sync(~0u, min(first_of(0), first_of(1))),
            __reduce_max_sync(~0u, max(keys_[0].end, keys_[1].end))};
    leave_to_bad_keys();
  }

  // The sums P·V of the rows, that of P = 2^(x - max + kTop), and log2 of what those count.
  template <int kCount>
  __device__ __forceinline__ void redo(float (&o)[kCount], float (&total)[2],
                                       float (&log2_sum)[2]) const {
    float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (keys_[r].begin >= keys_[r].end) continue;
      total[r] = 0;
#pragma unroll
      for (int j = 0; j < kCount / 4; ++j) o[4 * j + 2 * r] = o[4 * j + 2 * r + 1] = 0;
    }
#pragma unroll 1
    for (int key = all_.begin; key < all_.end; ++key) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = score(r, key);
        if (!sees(r, key)) continue;
        const float next = fmaxf(max[r], x);
        const float shrink = cuda::exp2_approx(max[r] - next);
        const float weight = cuda::exp2_approx(x - next + kTop);
        max[r] = next;
        total[r] = fmaf(total[r], shrink, weight);
        const std::uint32_t* const v = pairs(p_.v_rows, kv_head(), work_.token_k + key);
#pragma unroll
        for (int j = 0; j < kCount / 4; ++j) {
          const int pair = 4 * j + lane_ % 4;
          const float2 two = 2 * pair < p_.dim_v ? unpack(__ldg(v + pair)) : make_float2(0, 0);
          float* const sums = o + 4 * j + 2 * r;
          sums[0] = fmaf(sums[0], shrink, weight * two.x);
          sums[1] = fmaf(sums[1], shrink, weight * two.y);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (keys_[r].begin < keys_[r].end) log2_sum[r] = max[r] - kTop + cuda::log2_approx(total[r]);
    }
  }

 private:
  static constexpr float kTop = -28.0f;  // no finite V makes the sums overflow

  // Rows that see a key which is not finite stay as they are.
  __device__ __forceinline__ void leave_to_bad_keys() {
#pragma unroll 1
    for (int first = all_.begin; first < all_.end; first += 32) {
      const int key = first + lane_;
      const bool bad = key < all_.end && !is_finite(p_.k_rows, kv_head(), work_.token_k + key);
      for (unsigned found = __ballot_sync(~0u, bad); found != 0; found &= found - 1) {
        const int at = first + __ffs(static_cast<int>(found)) - 1;
        if (sees(0, at)) keys_[0] = {0, 0};
        if (sees(1, at)) keys_[1] = {0, 0};
      }
    }
  }

  // x, within ±2^126. The four threads of a row take a quarter of the products each.
  __device__ __forceinline__ float score(int r, int key) const {
    constexpr float kDown = 0x1p-70f, kUp = 0x1p70f, kMost = 0x1p126f;
    float sum = 0, small = 0;  // 2^-140 of the sum: within 2^124
    if (sees(r, key)) {
      const std::uint32_t* q = pairs(p_.q_rows, work_.head, work_.token_q + row_ + 8 * r);
      const std::uint32_t* k = pairs(p_.k_rows, kv_head(), work_.token_k + key);
#pragma unroll 1
      for (int i = lane_ % 4; i < p_.dim_qk / 2; i += 4) {
        const float2 a = unpack(__ldg(q + i)), b = unpack(__ldg(k + i));
        sum = fmaf(a.y, b.y, fmaf(a.x, b.x, sum));
        small = fmaf(a.y * kDown, b.y * kDown, fmaf(a.x * kDown, b.x * kDown, small));
      }
    }
    sum = sum_of_row(sum);
    small = sum_of_row(small);
    const float x = fabsf(sum) < INFINITY ? sum * p_.scale_log2 : small * p_.scale_log2 * kUp * kUp;
    const float held = fminf(fmaxf(x, -kMost), kMost);
    if (!(p_.softcap_log2 > 0)) return held;
    const float y = (held + bias_of_row(p_, work_, row_ + 8 * r)) / p_.softcap_log2;
    return p_.softcap_log2 * tanhf(y);
  }

  __device__ __forceinline__ bool sees(int r, int key) const {
    return key >= keys_[r].begin && key < keys_[r].end;
  }
  __device__ __forceinline__ int first_of(int r) const {
    return keys_[r].begin < keys_[r].end ? keys_[r].begin : 1 << 30;
  }
  __device__ __forceinline__ int kv_head() const { return work_.head / (p_.heads_q / p_.heads_kv); }
  __device__ __forceinline__ bool is_finite(const HalfRows& rows, int head, int token) const {
    constexpr std::uint32_t kLow = kBf16 ? 0x7f80u : 0x7c00u, kHigh = kLow << 16;
    const std::uint32_t* const row = pairs(rows, head, token);
    bool finite = true;
#pragma unroll 4
    for (int i = 0; i < p_.dim_qk / 2; ++i) {
      const std::uint32_t pair = __ldg(row + i);
      finite &= (pair & kLow) != kLow && (pair & kHigh) != kHigh;
    }
    return finite;
  }
  __device__ __forceinline__ const std::uint32_t* pairs(const HalfRows& rows, int head,
                                                        int token) const {
    const auto* const first = static_cast<const std::uint16_t*>(rows.data);
    return reinterpret_cast<const std::uint32_t*>(first + work_.batch * rows.batch +
                                                  head * rows.head + token * rows.token);
  }
  static __device__ __forceinline__ float2 unpack(std::uint32_t pair) {
    if constexpr (kBf16) {
      return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
    } else {
      return __half22float2(*reinterpret_cast<const __half2*>(&pair));
    }
  }
  static __device__ __forceinline__ float sum_of_row(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
  }

  const Params& p_;
  const Work& work_;
  int row_, lane_;
  KeyRange keys_[2];  // that the row sees; none: nothing is to be done for it
  KeyRange all_;      // of the warp's rows
};

}  // namespace sotto::sm90

// The end of a tile of query rows: sums, sinks, LSE; undoing V's mean and Hadamard transform; rows
// to memory in the output's dtype.
#pragma once

#include <cuda_bf16.h>

#include "cuda/common/half2.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

// LSE of a row, and the factor that turns its sums of P·V into the output.
//
// `log2_sum`: of the row's exponentials, -inf where it saw no key; `total`: the sum of P.
__device__ __forceinline__ float finish_row(const Params& p, const Work& work, int row, bool writes,
                                            float log2_sum, float total) {
  const bool counts = row < work.len_q;
  const bool seen = counts && log2_sum > -INFINITY;
  float factor = counts && !(total == 0) && log2_sum != -INFINITY ? 1.0f / total : 0.0f;
  float lse = counts ? log2_sum : -INFINITY;
  // With a softcap the bias went into the scores.
  const float taken_out = p.softcap_log2 > 0 ? 0.0f : bias_of_row(p, work, row);
  if (p.sinks != nullptr && counts) {
    const float sink = p.sinks[work.head * p.sink_stride] * kLog2e - taken_out;
    if (!seen && log2_sum == -INFINITY) {
      lse = sink;
    } else {
      const float top = fmaxf(lse, sink);
      const float both = top == -INFINITY ? lse
                                          : top + cuda::log2_approx(cuda::exp2_approx(lse - top) +
                                                                    cuda::exp2_approx(sink - top));
      factor *= cuda::exp2_approx(lse - both);
      lse = both;
    }
  }
  if (writes && p.lse.data != nullptr) {
    p.lse.data[row_offset(p.lse, work, row)] = (lse + (counts ? taken_out : 0.0f)) * kLn2;
  }
  return factor;
}

// The Hadamard transform of size `block` along the columns 8j + 2t + e that the four threads t of a
// row hold as o[4j + 2r + e].
template <int kColumns, int kCount>
__device__ __forceinline__ void hadamard_rows(float (&o)[kCount], int block, int lane) {
#pragma unroll
  for (int i = 0; i < kColumns / 2; i += 2) {
    const float a = o[i], b = o[i + 1];
    o[i] = a + b;
    o[i + 1] = a - b;
  }
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const float sign = lane & bit ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      o[i] = fmaf(o[i], sign, __shfl_xor_sync(~0u, o[i], bit));
    }
  }
#pragma unroll
  for (int step = 1; step < kColumns / 8; step *= 2) {
    if (8 * step >= block) break;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      if (j & step || j + step >= kColumns / 8) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float a = o[4 * j + i], b = o[4 * (j + step) + i];
        o[4 * j + i] = a + b;
        o[4 * (j + step) + i] = a - b;
      }
    }
  }
  const float scale = rsqrtf(static_cast<float>(block));
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) o[i] *= scale;
}

// Word i of thread t of each four becomes word t of thread i.
__device__ __forceinline__ void transpose_words(std::uint32_t (&w)[4], int lane) {
  std::uint32_t x = lane & 1 ? w[0] : w[1], y = lane & 1 ? w[2] : w[3];
  x = __shfl_xor_sync(~0u, x, 1);
  y = __shfl_xor_sync(~0u, y, 1);
  if (lane & 1) {
    w[0] = x;
    w[2] = y;
  } else {
    w[1] = x;
    w[3] = y;
  }
  x = lane & 2 ? w[0] : w[2];
  y = lane & 2 ? w[1] : w[3];
  x = __shfl_xor_sync(~0u, x, 2);
  y = __shfl_xor_sync(~0u, y, 2);
  if (lane & 2) {
    w[0] = x;
    w[1] = y;
  } else {
    w[2] = x;
    w[3] = y;
  }
}

__device__ __forceinline__ std::uint32_t pack16(OutDtype dtype, float low, float high) {
  if (dtype == OutDtype::f16) return cuda::to_half2(low, high);
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// `Element` is as wide as an element of the output, to which its rows are aligned at least.
template <class Element>
__device__ __forceinline__ void store_16_bytes(Element* to, const std::uint32_t (&words)[4],
                                               bool aligned) {
  if (aligned) {
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    return;
  }
  constexpr int kPerWord = 4 / sizeof(Element);
#pragma unroll
  for (int i = 0; i < 4 * kPerWord; ++i) {
    to[i] = static_cast<Element>(words[i / kPerWord] >> (i % kPerWord * 8 * sizeof(Element)));
  }
}

// Stores the rows `row` and `row` + 8 that the four threads of a quad share: o[4j + 2r + e] is
// column 8j + 2·(lane % 4) + e. `factor` and `total`: finish_row()'s.
template <int kColumns, int kCount>
__device__ __forceinline__ void store_rows(const Params& p, const Work& work, int row, int lane,
                                           float (&o)[kCount], const float (&factor)[2],
                                           const float (&total)[2]) {
  const int t = lane & 3;
  const float* const mean = p.v_mean.data == nullptr
                                ? nullptr
                                : p.v_mean.data + work.batch * p.v_mean.batch +
                                      work.head / (p.heads_q / p.heads_kv) * p.v_mean.head;
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) {
    // A row without keys is 0, whatever was summed.
    o[i] = factor[i >> 1 & 1] == 0 ? 0.0f : o[i] * factor[i >> 1 & 1];
  }
  if (mean != nullptr) {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      if (8 * j >= p.dim_v) break;
      asm volatile("" ::: "memory");  // a few loads at a time: registers are scarce
      const float* const at = mean + (8 * j + 2 * t) * p.v_mean.token;
      const float2 pair = make_float2(__ldg(at), __ldg(at + p.v_mean.token));
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // What the keys have of the row: 1 without a sink.
        const float share = factor[r] == 0 ? 0.0f : factor[r] * total[r];
        o[4 * j + 2 * r] += share * pair.x;
        o[4 * j + 2 * r + 1] += share * pair.y;
      }
    }
  }
  if (p.hadamard_block > 0) hadamard_rows<kColumns>(o, p.hadamard_block, lane);
  if (p.out_scale != nullptr) {
    const float inverse = 1.0f / __ldg(p.out_scale);
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) o[i] *= inverse;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool inside = row + 8 * r < work.rows;
    const std::int64_t offset = work.batch * p.out_batch + work.head * p.out_head +
                                static_cast<std::int64_t>(work.token_q + row + 8 * r) * p.out_token;
    if (p.out_dtype == OutDtype::f32) {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        const int column = 8 * j + 2 * t;
        if (inside && column < p.dim_v) {
          float* const at = static_cast<float*>(p.out) + offset + column;
          at[0] = o[4 * j + 2 * r];
          at[1] = o[4 * j + 2 * r + 1];
        }
      }
    } else if (p.out_dtype == OutDtype::e4m3) {
      // 64 columns at a time: a thread ends with 16 of them.
#pragma unroll
      for (int j = 0; j + 8 <= (kColumns + 63) / 64 * 8; j += 8) {
        std::uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          std::uint32_t halves[2] = {0, 0};
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const int k = 4 * (j + 2 * i + n) + 2 * r;
            if (k < kColumns / 2) halves[n] = cuda::to_e4m3(o[k], o[k + 1]);
          }
          w[i] = halves[0] | halves[1] << 16;
        }
        transpose_words(w, lane);
        const int column = 8 * j + 16 * t;
        if (inside && column < p.dim_v) {
          const std::uint32_t row16[4] = {
              cuda::select_bytes(w[0], w[1], 0x5410), cuda::select_bytes(w[2], w[3], 0x5410),
              cuda::select_bytes(w[0], w[1], 0x7632), cuda::select_bytes(w[2], w[3], 0x7632)};
          store_16_bytes(static_cast<std::uint8_t*>(p.out) + offset + column, row16, p.out_aligned);
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < kColumns / 8; j += 4) {
        std::uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          w[i] = pack16(p.out_dtype, o[4 * (j + i) + 2 * r], o[4 * (j + i) + 2 * r + 1]);
        }
        transpose_words(w, lane);
        const int column = 8 * (j + t);
        if (inside && column < p.dim_v) {
          store_16_bytes(static_cast<std::uint16_t*>(p.out) + offset + column, w, p.out_aligned);
        }
      }
    }
  }
}

}  // namespace sotto::sm90

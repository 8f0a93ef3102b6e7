// A row, one token of one head, as a few neighbouring lanes of a warp share it in registers, and
// what happens to it before it is rounded: widening, RoPE, Hadamard.
//
// A row is padded to kWidth channels: 64, 128 or 256. Lane l of kWidth/32 holds four chunks of
// eight channels, chunk j being the channels from 8·(j·lanes + l): a row is read in full 32-byte
// sectors, RoPE's partner d + dim/2 lies in the same lane, and a Hadamard transform needs shuffles
// for three of its stages at most.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "cuda/quantize/rope_tables.h"

namespace sotto::cuda {

inline constexpr int kChannelsPerLane = 32;
inline constexpr int kChunks = 4;
inline constexpr int kChunkChannels = 8;
using RowPart = float[kChannelsPerLane];
using RawPart = uint4[kChunks];  // of a 16-bit row

template <int kWidth>
struct RowLayout {
  static constexpr int kLanes = kWidth / kChannelsPerLane;

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  // The first channel of a chunk.
  __device__ static int channel(int chunk) { return (chunk * kLanes + lane()) * kChunkChannels; }
};

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) <= FLT_MAX; }

// Element: __half or __nv_bfloat16.
template <class Element>
__device__ __forceinline__ float2 widen(std::uint32_t pair) {
  if constexpr (std::is_same_v<Element, __half>) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
  } else {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }
}

template <class Element>
__device__ __forceinline__ void widen(const RawPart& raw, RowPart& x) {
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    const std::uint32_t pairs[4] = {raw[j].x, raw[j].y, raw[j].z, raw[j].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 both = widen<Element>(pairs[i]);
      x[j * kChunkChannels + 2 * i] = both.x;
      x[j * kChunkChannels + 2 * i + 1] = both.y;
    }
  }
}

// --- RoPE ---------------------------------------------------------------------------------------

// The factors of a lane's 16 pairs at one position, for the kinds `halves` and `interleaved`. Where
// a Hadamard transform follows, its butterflies on the same pairs are part of them:
//     y0 + y1 = x0·(cos + sin) + x1·(cos - sin),   y0 - y1 = x0·(cos - sin) - x1·(cos + sin)
struct RopeFactors {
  float4 cos[kChunks], sin[kChunks];  // or cos + sin, cos - sin
};

template <int kWidth>
__device__ __forceinline__ void load_factors(const RopeTables& tables, int position,
                                             bool with_butterflies, RopeFactors& factors) {
  constexpr int kLanes = RowLayout<kWidth>::kLanes;
  const int lane = RowLayout<kWidth>::lane();
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    const int pair = tables.kind == RopeKind::halves ? ((k / 2) * kLanes + lane) * 8 + (k & 1) * 4
                                                     : (k * kLanes + lane) * 4;
    const float4 c =
        *reinterpret_cast<const float4*>(tables.cos + position * tables.cos_stride + pair);
    const float4 s =
        *reinterpret_cast<const float4*>(tables.sin + position * tables.sin_stride + pair);
    factors.cos[k] = c;
    factors.sin[k] = s;
    if (with_butterflies) {
      factors.cos[k] = {c.x + s.x, c.y + s.y, c.z + s.z, c.w + s.w};
      factors.sin[k] = {c.x - s.x, c.y - s.y, c.z - s.z, c.w - s.w};
    }
  }
}

__device__ __forceinline__ void rotate(float& x0, float& x1, float cos, float sin) {
  const float a = x0, b = x1;
  x0 = __fmaf_rn(a, cos, -__fmul_rn(b, sin));
  x1 = __fmaf_rn(b, cos, __fmul_rn(a, sin));
}
__device__ __forceinline__ void rotate_with_butterfly(float& x0, float& x1, float sum,
                                                      float difference) {
  const float a = x0, b = x1;
  x0 = __fmaf_rn(a, sum, __fmul_rn(b, difference));
  x1 = __fmaf_rn(a, difference, -__fmul_rn(b, sum));
}

// Calls rotate(x0, x1, cos, sin) for each pair of a lane.
template <class Rotate>
__device__ __forceinline__ void for_each_half(RowPart& x, const RopeFactors& factors,
                                              Rotate&& rotate) {
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    const float4 c = factors.cos[k], s = factors.sin[k];
    float* first = x + 4 * k;
    float* second = first + kChannelsPerLane / 2;
    rotate(first[0], second[0], c.x, s.x);
    rotate(first[1], second[1], c.y, s.y);
    rotate(first[2], second[2], c.z, s.z);
    rotate(first[3], second[3], c.w, s.w);
  }
}
template <class Rotate>
__device__ __forceinline__ void for_each_neighbour(RowPart& x, const RopeFactors& factors,
                                                   Rotate&& rotate) {
#pragma unroll
  for (int k = 0; k < kChunks; ++k) {
    const float4 c = factors.cos[k], s = factors.sin[k];
    float* row = x + 8 * k;
    rotate(row[0], row[1], c.x, s.x);
    rotate(row[2], row[3], c.y, s.y);
    rotate(row[4], row[5], c.z, s.z);
    rotate(row[6], row[7], c.w, s.w);
  }
}

// Any layout of pairs and tables. load_partner(c) reads channel c of the row as it was stored.
template <int kWidth, class LoadPartner>
__device__ __forceinline__ void rope_general(RowPart& x, const RopeTables& tables, int position,
                                             LoadPartner load_partner) {
  const float* cos = tables.cos + position * tables.cos_stride;
  const float* sin = tables.sin + position * tables.sin_stride;
  const int half = tables.rotary_dim / 2;
#pragma unroll 1
  for (int j = 0; j < kChunks; ++j) {
#pragma unroll
    for (int e = 0; e < kChunkChannels; ++e) {
      const int c = RowLayout<kWidth>::channel(j) + e;
      if (c >= tables.rotary_dim) continue;
      const bool first = tables.interleaved ? c % 2 == 0 : c < half;
      const int partner = tables.interleaved ? c ^ 1 : first ? c + half : c - half;
      const int pair = tables.interleaved ? c / 2 : c % half;
      const int factor = tables.factor_per_channel ? c : pair;
      const float turned = load_partner(partner) * sin[factor * tables.sin_channel_stride];
      const float kept = cos[factor * tables.cos_channel_stride];
      // A constant index keeps the row in registers.
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        float& value = x[i * kChunkChannels + e];
        if (i == j) value = __fmaf_rn(value, kept, first ? -turned : turned);
      }
    }
  }
}

// --- Hadamard -----------------------------------------------------------------------------------

// Distances of a transform's stages that are done already: RoPE took them along.
enum class StagesDone { none, neighbours, halves };

// The Walsh-Hadamard transform of each `block` channels (a power of two from 16), not normalised.
template <int kWidth>
__device__ __forceinline__ void hadamard(RowPart& x, int block, StagesDone done) {
  constexpr int kLanes = RowLayout<kWidth>::kLanes;
  const auto butterflies = [&](int distance) {
#pragma unroll
    for (int i = 0; i < kChannelsPerLane; ++i) {
      if (i & distance) continue;
      const float a = x[i], b = x[i + distance];
      x[i] = a + b;
      x[i + distance] = a - b;
    }
  };
  if (done != StagesDone::neighbours) butterflies(1);
  butterflies(2);
  butterflies(4);
#pragma unroll
  for (int lanes = 1; lanes < kLanes; lanes *= 2) {
    if (block <= kChunkChannels * lanes) return;
    const float sign = threadIdx.x & lanes ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kChannelsPerLane; ++i) {
      x[i] = __fmaf_rn(x[i], sign, __shfl_xor_sync(~0u, x[i], lanes));
    }
  }
  if (block <= kChunkChannels * kLanes) return;
  butterflies(8);
  if (block <= 2 * kChunkChannels * kLanes || done == StagesDone::halves) return;
  butterflies(16);
}

// --- magnitudes ---------------------------------------------------------------------------------

// max |x|, or NaN where there is one.
__device__ __forceinline__ float magnitude(const RowPart& x) {
  float largest[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kChannelsPerLane; ++i) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(largest[i % 4]) : "f"(fabsf(x[i])));
  }
#pragma unroll
  for (int i = 1; i < 4; ++i) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(largest[0]) : "f"(largest[i]));
  }
  return largest[0];
}

// max |x| over the finite ones.
__device__ __forceinline__ float finite_magnitude(const RowPart& x) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kChannelsPerLane; ++i) {
    if (is_finite(x[i])) largest = fmaxf(largest, fabsf(x[i]));
  }
  return largest;
}

// The largest of the lanes of each row; a NaN stays where one came in.
template <int kWidth>
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
  for (int lanes = 1; lanes < RowLayout<kWidth>::kLanes; lanes *= 2) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(__shfl_xor_sync(~0u, x, lanes)));
  }
  return x;
}

template <int kWidth>
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int lanes = 1; lanes < RowLayout<kWidth>::kLanes; lanes *= 2) {
    x += __shfl_xor_sync(~0u, x, lanes);
  }
  return x;
}

// Where INT8 has no code: NaN becomes 0, ±Inf the largest finite magnitude.
__device__ __forceinline__ void make_finite(RowPart& x, float largest) {
#pragma unroll
  for (int i = 0; i < kChannelsPerLane; ++i) {
    x[i] = x[i] != x[i] ? 0.0f : fminf(fmaxf(x[i], -largest), largest);
  }
}

}  // namespace sotto::cuda

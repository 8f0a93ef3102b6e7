// Rows of any dtype, strides and head size up to 512, one to a warp: what quantize() and
// channel_mean() on the GPU have in common. Lane l holds the channels l, l + 32, l + 64, …
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>

#include "cuda/quantize/row.cuh"
#include "cuda/quantize/scale_view.cuh"
#include "cuda/quantize/sequences.cuh"
#include "sotto/tensor.h"

namespace sotto::cuda {

inline constexpr int kMostRowChannels = 512;

// Rows [batch, len, heads, dim] or packed [total, heads, dim].
struct AnyRows {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;  // in elements

  // `row`: in the tensor's dimension of tokens.
  __device__ std::int64_t offset(int batch, int row, int head) const {
    return batch * batch_stride + row * token_stride + head * head_stride;
  }
  __device__ float load(std::int64_t at) const {
    switch (dtype) {
      case Dtype::f16:
        return __half2float(static_cast<const __half*>(data)[at]);
      case Dtype::bf16:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
      case Dtype::e4m3: {
        const std::uint16_t code = static_cast<const std::uint8_t*>(data)[at];
        std::uint32_t halves;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(code));
        return __half2float(__ushort_as_half(static_cast<std::uint16_t>(halves)));
      }
      case Dtype::i8:
        return static_cast<const std::int8_t*>(data)[at];
      default:
        return static_cast<const float*>(data)[at];
    }
  }
};

// f32 [batch, heads, dim].
struct ChannelTable {
  float* data = nullptr;  // null: absent
  std::int64_t strides[3] = {};

  __device__ float& at(int batch, int head, int channel) const {
    return data[batch * strides[0] + head * strides[1] + channel * strides[2]];
  }
};

struct WarpRowsParams {
  AnyRows x;
  int heads = 0, dim = 0;
  TokenSide tokens;
  ScaleView descale;  // of x
  RopeTables rope;
  int hadamard = 0;        // channels of a block; 0: none
  float normalize = 1.0f;  // 1/sqrt(hadamard)
};

// A token's place.
struct TokenPlace {
  int batch = 0;
  int token = 0;       // in its sequence
  bool there = false;  // belongs to a sequence
  bool used = false;   // counts
};

// Of the tensor's row: of batch · len rows, or of total.
__device__ inline TokenPlace place_of_row(const TokenSide& side, int row) {
  TokenPlace place;
  if (side.cu_seqlens == nullptr) {
    place.batch = row / side.len;
    place.token = row % side.len;
    place.there = true;
  } else if (side.batch > 0) {
    // The last sequence that begins at the row or before; empty ones begin where the next does.
    int begin = 0, end = side.batch;
    while (end - begin > 1) {
      const int middle = (begin + end) / 2;
      (sequence_range(side, middle).begin <= row ? begin : end) = middle;
    }
    const SequenceRange range = sequence_range(side, begin);
    place.batch = begin;
    place.token = row - range.begin;
    place.there = place.token >= 0 && place.token < range.rows;
  }
  place.used = place.there && place.token < sequence_range(side, place.batch).used;
  return place;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}
__device__ __forceinline__ float warp_total(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

// A finite result to a finite one.
__device__ __forceinline__ float saturated(float x, bool was_finite) {
  return was_finite ? fminf(fmaxf(x, -FLT_MAX), FLT_MAX) : x;
}

// The rows of a warp, in 32·kParts channels. `shared`: kMostRowChannels floats of the warp's own.
template <int kParts>
class WarpRows {
 public:
  using Row = float[kParts];

  __device__ WarpRows(const WarpRowsParams& params, float* shared)
      : params_(params), shared_(shared) {}

  __device__ static int channel(int part) { return part * 32 + static_cast<int>(threadIdx.x) % 32; }

  // After RoPE and Hadamard. The place must be used.
  __device__ void read(const TokenPlace& place, int head, Row& x) const {
    const int row = row_of(place);
    const std::int64_t at = params_.x.offset(place.batch, row, head);
    const float descale = params_.descale.at(place.batch, head, row, place.token);
    bool finite = true;
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int c = channel(i);
      x[i] = c < params_.dim ? params_.x.load(at + c) * descale : 0.0f;
      finite = finite && is_finite(x[i]);
      if (is_finite(x[i])) largest = fmaxf(largest, fabsf(x[i]));
    }
    if (params_.rope.kind == RopeKind::none && params_.hadamard == 0) return;
    // Rows with huge entries are transformed at a smaller size, so that no sum overflows.
    constexpr float kHuge = 0x1p96f, kShrink = 0x1p-32f;
    const bool huge = warp_max(largest) > kHuge;
    if (huge) scale(x, kShrink);
    if (params_.rope.kind != RopeKind::none) rotate_row(place, x);
    if (params_.hadamard > 0) transform(x);
    if (!huge) return;
#pragma unroll
    for (float& value : x) value = saturated(value / kShrink, is_finite(value));
  }

  __device__ int row_of(const TokenPlace& place) const {
    return place.token + sequence_range(params_.tokens, place.batch).begin;
  }

 private:
  __device__ static void scale(Row& x, float factor) {
#pragma unroll
    for (float& value : x) value *= factor;
  }

  __device__ void rotate_row(const TokenPlace& place, Row& x) const {
    const RopeTables& tables = params_.rope;
    int position = place.token;
    const TokenSide& side = params_.tokens;
    if (side.positions != nullptr) {
      position =
          side.positions[side.cu_seqlens == nullptr ? place.batch * side.position_strides[0] +
                                                          place.token * side.position_strides[1]
                                                    : row_of(place) * side.position_strides[1]];
    }
    position = min(max(position, 0), tables.positions - 1);
    const float* cos = tables.cos + position * tables.cos_stride;
    const float* sin = tables.sin + position * tables.sin_stride;
    const int half = tables.rotary_dim / 2;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kParts; ++i) shared_[channel(i)] = x[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int c = channel(i);
      if (c >= tables.rotary_dim) continue;
      const bool first = tables.interleaved ? c % 2 == 0 : c < half;
      const int partner = tables.interleaved ? c ^ 1 : first ? c + half : c - half;
      const int pair = tables.interleaved ? c / 2 : c % half;
      const int factor = tables.factor_per_channel ? c : pair;
      const float turned = __fmul_rn(shared_[partner], sin[factor * tables.sin_channel_stride]);
      x[i] = __fmaf_rn(x[i], cos[factor * tables.cos_channel_stride], first ? -turned : turned);
    }
  }

  __device__ void transform(Row& x) const {
    const int block = params_.hadamard;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int distance = 1; distance < min(block, 32); distance *= 2) {
      const float sign = lane & distance ? -1.0f : 1.0f;
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        x[i] = __fmaf_rn(x[i], sign, __shfl_xor_sync(~0u, x[i], distance));
      }
    }
#pragma unroll
    for (int distance = 1; distance < kParts; distance *= 2) {
      if (32 * distance >= block) break;
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        if (i & distance) continue;
        const float a = x[i], b = x[i + distance];
        x[i] = a + b;
        x[i + distance] = a - b;
      }
    }
    scale(x, params_.normalize);
  }

  const WarpRowsParams& params_;
  float* shared_;
};

// Calls f with std::integral_constant<int, kParts>.
template <class F>
void with_parts(int dim, F&& f) {
  if (dim <= 128) {
    f(std::integral_constant<int, 4>());
  } else if (dim <= 256) {
    f(std::integral_constant<int, 8>());
  } else {
    f(std::integral_constant<int, 16>());
  }
}

}  // namespace sotto::cuda

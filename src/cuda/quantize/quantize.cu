#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/error.h"
#include "cuda/quantize/operations.h"
#include "cuda/quantize/round.cuh"
#include "cuda/quantize/warp_row_params.h"
#include "cuda/quantize/warp_rows.cuh"

namespace sotto::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct QuantizeParams {
  WarpRowsParams rows;
  AnyRows out, out_lo;   // data null: absent
  ScaleView descale;     // written
  float largest = 0.0f;  // that the codes reach
  bool power_of_two = false;
  ChannelTable mean, dot_with;
  float* dot = nullptr;
  std::int64_t dot_strides[3] = {};  // batch (packed: 0), head, token
  int dots = 0;                      // heads of dot
  int heads_with = 1;                // of dot_with
  float dot_scale = 1.0f;
  bool dot_before_mean = false;
  int tokens = 0;  // rows of the tensor
};

__device__ float scale_of_share(const QuantizeParams& p, float amax) {
  const float scale = scale_of(amax, p.largest);
  return p.power_of_two ? round_up_to_power_of_two(scale) : scale;
}

// Round to nearest even, saturate at ±127; NaN is 0.
__device__ std::int8_t int8_from(float x) {
  if (x != x) return 0;
  return static_cast<std::int8_t>(rintf(fminf(fmaxf(x, -kInt8Largest), kInt8Largest)));
}

__device__ std::uint8_t e4m3_from(float x) {
  return static_cast<std::uint8_t>(e4m3_codes(x, 0.0f, 0.0f, 0.0f));
}
__device__ float e4m3_value(std::uint8_t code) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(code)));
  return __half2float(__ushort_as_half(static_cast<std::uint16_t>(halves)));
}

// x is already divided by its scale, for 8-bit dtypes. A finite number becomes a finite one.
__device__ void store(const AnyRows& rows, std::int64_t at, float x) {
  constexpr float kLargestHalf = 65504.0f, kLargestBf16 = 3.38953139e38f;
  const auto within = [&](float limit) {
    return is_finite(x) ? fminf(fmaxf(x, -limit), limit) : x;
  };
  switch (rows.dtype) {
    case Dtype::f16:
      static_cast<__half*>(rows.data)[at] = __float2half_rn(within(kLargestHalf));
      break;
    case Dtype::bf16:
      static_cast<__nv_bfloat16*>(rows.data)[at] = __float2bfloat16_rn(within(kLargestBf16));
      break;
    case Dtype::e4m3:
      static_cast<std::uint8_t*>(rows.data)[at] = e4m3_from(x);
      break;
    case Dtype::i8:
      static_cast<std::int8_t*>(rows.data)[at] = int8_from(x);
      break;
    default:
      static_cast<float*>(rows.data)[at] = x;
  }
}

// A warp's rows: of every token and head in turn.
template <int kParts>
class RowQuantizer {
  using Row = typename WarpRows<kParts>::Row;

 public:
  __device__ RowQuantizer(const QuantizeParams& params, float* shared)
      : p_(params), rows_(params.rows, shared) {}

  // Raises the amax of the row's share, which its scale's memory holds until it is complete.
  __device__ void measure(const TokenPlace& place, int head) const {
    if (!place.used) return;
    Row x;
    read_centered(place, head, x, false);
    const float amax = warp_max(magnitude_of(x));
    if (threadIdx.x % 32 != 0) return;
    float* slot =
        p_.descale.data + p_.descale.offset(place.batch, head, rows_.row_of(place), place.token);
    atomicMax(reinterpret_cast<unsigned*>(slot), __float_as_uint(amax));
  }

  __device__ void write(const TokenPlace& place, int head) const {
    Row x;
    if (place.used) {
      read_centered(place, head, x, true);
    } else {
#pragma unroll
      for (float& value : x) value = 0.0f;
      write_dots(place, head, x);
    }
    const int row = rows_.row_of(place);
    float scale = 1.0f;
    if (p_.descale.data != nullptr) {
      const std::int64_t at = p_.descale.offset(place.batch, head, row, place.token);
      if (p_.descale.granularity == Granularity::token) {
        scale = scale_of_share(p_, warp_max(magnitude_of(x)));
        if (threadIdx.x % 32 == 0) p_.descale.data[at] = scale;
      } else {
        scale = p_.descale.data[at];
      }
    }
    const std::int64_t out = p_.out.offset(place.batch, row, head);
    const std::int64_t out_lo = p_.out_lo.offset(place.batch, row, head);
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int c = WarpRows<kParts>::channel(i);
      if (c >= p_.rows.dim) continue;
      const float scaled = p_.descale.data != nullptr ? __fdiv_rn(x[i], scale) : x[i];
      store(p_.out, out + c, scaled);
      if (p_.out_lo.data == nullptr) continue;
      const float in_range =
          scaled != scaled ? scaled : fminf(fmaxf(scaled, -kE4m3Largest), kE4m3Largest);
      store(p_.out_lo, out_lo + c, in_range - e4m3_value(e4m3_from(in_range)));
    }
  }

 private:
  __device__ static float magnitude_of(const Row& x) {
    float largest = 0.0f;
#pragma unroll
    for (const float value : x) {
      if (is_finite(value)) largest = fmaxf(largest, fabsf(value));
    }
    return largest;
  }

  __device__ void read_centered(const TokenPlace& place, int head, Row& x, bool with_dots) const {
    rows_.read(place, head, x);
    if (with_dots && p_.dot_before_mean) write_dots(place, head, x);
    if (p_.mean.data != nullptr) {
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const int c = WarpRows<kParts>::channel(i);
        if (c >= p_.rows.dim) continue;
        const float mean = p_.mean.at(place.batch, head, c);
        x[i] = saturated(x[i] - mean, is_finite(x[i]) && is_finite(mean));
      }
    }
    if (with_dots && !p_.dot_before_mean) write_dots(place, head, x);
  }

  __device__ void write_dots(const TokenPlace& place, int head, const Row& x) const {
    if (p_.dot == nullptr) return;
    const int of_head = p_.dots / p_.rows.heads, sharing = p_.dots / p_.heads_with;
    for (int dot = head * of_head; dot < (head + 1) * of_head; ++dot) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const int c = WarpRows<kParts>::channel(i);
        if (place.used && c < p_.rows.dim) {
          sum = __fmaf_rn(x[i], p_.dot_with.at(place.batch, dot / sharing, c), sum);
        }
      }
      sum = warp_total(sum);
      if (threadIdx.x % 32 != 0) continue;
      const bool packed = p_.rows.tokens.cu_seqlens != nullptr;
      p_.dot[place.batch * p_.dot_strides[0] + dot * p_.dot_strides[1] +
             (packed ? rows_.row_of(place) : place.token) * p_.dot_strides[2]] = p_.dot_scale * sum;
    }
  }

  const QuantizeParams& p_;
  WarpRows<kParts> rows_;
};

// kMeasure: find the amax of shares; else round.
template <int kParts, bool kMeasure>
__global__ void __launch_bounds__(kThreads) rows_kernel(const __grid_constant__ QuantizeParams p) {
  __shared__ float shared[kWarps][32 * kParts];
  const RowQuantizer<kParts> quantizer(p, shared[threadIdx.x / 32]);
  const std::int64_t rows = static_cast<std::int64_t>(p.tokens) * p.rows.heads;
  for (std::int64_t row = blockIdx.x * std::int64_t{kWarps} + threadIdx.x / 32; row < rows;
       row += gridDim.x * std::int64_t{kWarps}) {
    const TokenPlace place = place_of_row(p.rows.tokens, static_cast<int>(row / p.rows.heads));
    const int head = static_cast<int>(row % p.rows.heads);
    if (!place.there) continue;
    if (kMeasure) {
      quantizer.measure(place, head);
    } else {
      quantizer.write(place, head);
    }
  }
}

// All values of a tensor of scales.
struct ScaleValues {
  float* data = nullptr;
  std::int64_t shape[3] = {1, 1, 1}, strides[3] = {};

  __host__ __device__ std::int64_t count() const { return shape[0] * shape[1] * shape[2]; }
  __device__ float& operator[](std::int64_t i) const {
    return data[i / (shape[1] * shape[2]) * strides[0] + i / shape[2] % shape[1] * strides[1] +
                i % shape[2] * strides[2]];
  }
};

__global__ void fill_kernel(const __grid_constant__ ScaleValues values, float value) {
  for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < values.count();
       i += gridDim.x * std::int64_t{kThreads}) {
    values[i] = value;
  }
}

// Each amax becomes its scale.
__global__ void finish_kernel(const __grid_constant__ QuantizeParams p,
                              const __grid_constant__ ScaleValues values) {
  for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < values.count();
       i += gridDim.x * std::int64_t{kThreads}) {
    values[i] = scale_of_share(p, values[i]);
  }
}

ScaleValues scale_values(const Tensor& tensor) {
  ScaleValues values;
  values.data = static_cast<float*>(tensor.data);
  for (int d = 0; d < tensor.rank && d < 3; ++d) {
    values.shape[d] = tensor.size(d);
    values.strides[d] = tensor.stride(d);
  }
  return values;
}

QuantizeParams params_of(const QuantizeArgs& args) {
  QuantizeParams p;
  p.rows = warp_rows_params(args.x, {}, args.rope, args.hadamard, args.cu_seqlens, args.seqused);
  p.out = any_rows(args.out);
  if (args.out_lo) p.out_lo = any_rows(args.out_lo);
  p.descale = scale_view(args.descale, p.rows.heads);
  p.largest = args.out.dtype == Dtype::i8 ? kInt8Largest : kE4m3Largest;
  p.power_of_two = args.power_of_two;
  p.mean = channel_table(args.mean);
  p.dot_with = channel_table(args.dot_with);
  if (args.dot) {
    p.dot = static_cast<float*>(args.dot.data);
    const int first = args.dot.rank == 2 ? 1 : 0;  // packed: no batch
    for (int d = 0; d < args.dot.rank; ++d) p.dot_strides[first + d] = args.dot.stride(d);
    p.dots = static_cast<int>(args.dot.size(args.dot.rank - 2));
    p.heads_with = static_cast<int>(args.dot_with.size(1));
  }
  p.dot_scale = args.dot_scale;
  p.dot_before_mean = args.dot_before_mean;
  p.tokens = static_cast<int>(args.x.rank == 3 ? args.x.size(0) : args.x.size(0) * args.x.size(1));
  return p;
}

unsigned blocks_for(std::int64_t threads) {
  constexpr std::int64_t kMostBlocks = 8192;
  return static_cast<unsigned>(
      std::clamp<std::int64_t>((threads + kThreads - 1) / kThreads, 1, kMostBlocks));
}

}  // namespace

Reasons refuse(const QuantizeArgs& args) { return refuse_rows(args.x); }

void run(const QuantizeArgs& args, cudaStream_t stream) {
  const QuantizeParams p = params_of(args);
  const unsigned row_blocks = blocks_for(std::int64_t{p.tokens} * p.rows.heads * 32);
  with_parts(p.rows.dim, [&](auto parts) {
    constexpr int kParts = decltype(parts)::value;
    if (args.descale && args.descale.values.numel() > 0) {
      const ScaleValues values = scale_values(args.descale.values);
      const bool per_token = args.descale.granularity == Granularity::token;
      const unsigned blocks = blocks_for(values.count());
      // Of tokens that do not count the scale is 1.
      fill_kernel<<<blocks, kThreads, 0, stream>>>(values, per_token ? 1.0f : 0.0f);
      if (!per_token) {
        rows_kernel<kParts, true><<<row_blocks, kThreads, 0, stream>>>(p);
        finish_kernel<<<blocks, kThreads, 0, stream>>>(p, values);
      }
    }
    rows_kernel<kParts, false><<<row_blocks, kThreads, 0, stream>>>(p);
  });
  check(cudaGetLastError(), "launching quantize");
}

}  // namespace sotto::cuda

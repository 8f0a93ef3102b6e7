// From values to codes: scales (the definitions of core/scaling.h) and packed rounding.
#pragma once

#include <cfloat>
#include <cstdint>

#include "cuda/quantize/row.cuh"

namespace sotto::cuda {

inline constexpr float kInt8Largest = 127.0f;
inline constexpr float kE4m3Largest = 448.0f;

// x / divisor as a division rounds it, for a divisor whose reciprocal is known (Markstein 1990).
__device__ __forceinline__ float quotient(float x, float divisor, float reciprocal) {
  const float q = x * reciprocal;
  const float excess = __fmaf_rn(-q, divisor, x);
  return is_finite(excess) ? __fmaf_rn(excess, reciprocal, q) : q;
}

// amax / largest, not below the smallest normal float; 1 for 0.
__device__ __forceinline__ float scale_of(float amax, float largest) {
  return amax == 0.0f ? 1.0f : fmaxf(quotient(amax, largest, 1.0f / largest), FLT_MIN);
}

// The smallest power of two that is not below a positive scale; at most 2^127.
__device__ __forceinline__ float round_up_to_power_of_two(float scale) {
  const std::uint32_t bits = __float_as_uint(scale);
  const std::uint32_t exponent = (bits + 0x007fffffu) & 0x7f800000u;
  return __uint_as_float(min(exponent, 0x7f000000u));
}

// 1 / scale, within an ulp or two.
__device__ __forceinline__ float reciprocal_of(float scale) {
  float reciprocal;
  asm("rcp.approx.f32 %0, %1;" : "=f"(reciprocal) : "f"(scale));
  return reciprocal;
}

// Four INT8 codes of x·factor, which is at most 127 in magnitude: adding 1.5·2^23 rounds to the
// nearest integer, ties to even, and leaves it in the lowest byte.
__device__ __forceinline__ std::uint32_t int8_codes(float a, float b, float c, float d,
                                                    float factor) {
  constexpr float kRound = 12582912.0f;
  const std::uint32_t x = __float_as_uint(__fmaf_rn(a, factor, kRound));
  const std::uint32_t y = __float_as_uint(__fmaf_rn(b, factor, kRound));
  const std::uint32_t z = __float_as_uint(__fmaf_rn(c, factor, kRound));
  const std::uint32_t w = __float_as_uint(__fmaf_rn(d, factor, kRound));
  return __byte_perm(__byte_perm(x, y, 0x0040), __byte_perm(z, w, 0x0040), 0x5410);
}

// Four e4m3 codes: to nearest even, beyond ±448 that, NaN as 0x7f.
__device__ __forceinline__ std::uint32_t e4m3_codes(float a, float b, float c, float d) {
  std::uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return low | static_cast<std::uint32_t>(high) << 16;
}

// A lane's 32 codes: word 2j + i holds channels 4i … 4i+3 of chunk j.
using CodePart = std::uint32_t[kChannelsPerLane / 4];

__device__ __forceinline__ void round_int8(const RowPart& x, float factor, CodePart& codes) {
#pragma unroll
  for (int i = 0; i < kChannelsPerLane / 4; ++i) {
    codes[i] = int8_codes(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3], factor);
  }
}

__device__ __forceinline__ void round_e4m3(const RowPart& x, float factor, CodePart& codes) {
#pragma unroll
  for (int i = 0; i < kChannelsPerLane / 4; ++i) {
    codes[i] = e4m3_codes(x[4 * i] * factor, x[4 * i + 1] * factor, x[4 * i + 2] * factor,
                          x[4 * i + 3] * factor);
  }
}

// The same with the bits of x / scale.
__device__ __forceinline__ void round_e4m3_exactly(const RowPart& x, float scale, CodePart& codes) {
  const float reciprocal = __frcp_rn(scale);
#pragma unroll
  for (int i = 0; i < kChannelsPerLane / 4; ++i) {
    codes[i] = e4m3_codes(
        quotient(x[4 * i], scale, reciprocal), quotient(x[4 * i + 1], scale, reciprocal),
        quotient(x[4 * i + 2], scale, reciprocal), quotient(x[4 * i + 3], scale, reciprocal));
  }
}

// The highest bits of those of four codes that are NaN.
__device__ __forceinline__ std::uint32_t nan_bits(std::uint32_t codes) {
  return ((codes & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
}
// 0 in place of NaN.
__device__ __forceinline__ std::uint32_t without_nan(std::uint32_t codes) {
  return codes & ~((nan_bits(codes) >> 7) * 0xffu);
}

// Codes that stand for ±Inf (±448) become ±limit; every finite number's code is at most `limit`,
// which is below 32.
__device__ __forceinline__ void limit_infinities(CodePart& codes, std::uint32_t limit) {
  std::uint32_t large = 0;  // exponents from 12 on: 32 and more, or NaN
#pragma unroll
  for (std::uint32_t word : codes) large |= word & (word << 1);
  if ((large & 0x40404040u) == 0) return;
#pragma unroll
  for (std::uint32_t& word : codes) {
    const std::uint32_t infinite = __vcmpeq4(word & 0x7f7f7f7fu, 0x7e7e7e7eu);
    word = (word & ~(infinite & 0x7f7f7f7fu)) | (infinite & (limit * 0x01010101u));
  }
}

}  // namespace sotto::cuda

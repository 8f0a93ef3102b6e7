// Packed half-precision and 16-bit integer arithmetic on plain 32-bit registers, as accumulators of
// the tensor cores come. Function names follow PTX; operands are (low, high) pairs.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace sotto::cuda {

using Half2 = std::uint32_t;  // two halves

__device__ __forceinline__ Half2 fma2(Half2 a, Half2 b, Half2 c) {
  Half2 d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ Half2 fma2_sat(Half2 a, Half2 b, Half2 c) {  // to [0, 1]
  Half2 d;
  asm("fma.rn.sat.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ Half2 add2(Half2 a, Half2 b) {
  Half2 d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ Half2 sub2(Half2 a, Half2 b) {
  Half2 d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ Half2 mul2(Half2 a, Half2 b) {
  Half2 d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ Half2 tanh2(Half2 a) {
  Half2 d;
  asm("tanh.approx.f16x2 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}
__device__ __forceinline__ Half2 max2(Half2 a, Half2 b) {  // a NaN gives way to a number
  Half2 d;
  asm("max.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ Half2 max2_nan(Half2 a, Half2 b) {  // a NaN stays
  Half2 d;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
__device__ __forceinline__ Half2 exp2_2(Half2 a) {
  Half2 d;
  asm("ex2.approx.f16x2 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}
// Whether a > b in either half, or either is NaN.
__device__ __forceinline__ bool any_above_or_nan(Half2 a, Half2 b) {
  std::uint32_t d;
  asm("{.reg .pred p, q;\n"
      "setp.gtu.f16x2 p|q, %1, %2;\n"
      "or.pred p, p, q;\n"
      "selp.u32 %0, 1, 0, p;}"
      : "=r"(d)
      : "r"(a), "r"(b));
  return d != 0;
}
__device__ __forceinline__ std::uint32_t select_bytes(std::uint32_t a, std::uint32_t b,
                                                      std::uint32_t selector) {
  std::uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}
// Four halves to four e4m3, saturating.
__device__ __forceinline__ std::uint32_t to_e4m3(Half2 a, Half2 b) {
  std::uint32_t d;
  asm("{.reg .b16 x, y;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 x, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 y, %2;\n"
      "mov.b32 %0, {x, y};}"
      : "=r"(d)
      : "r"(a), "r"(b));
  return d;
}
// Two floats to two e4m3, saturating.
__device__ __forceinline__ std::uint16_t to_e4m3(float low, float high) {
  std::uint16_t d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
}
__device__ __forceinline__ Half2 to_half2(float low, float high) {
  Half2 d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
__device__ __forceinline__ float low_of(Half2 a) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(a)));
}
__device__ __forceinline__ float high_of(Half2 a) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(a >> 16)));
}

__host__ __device__ constexpr std::uint32_t twice(std::uint32_t bits16) {
  return bits16 | (bits16 << 16);
}
__device__ __forceinline__ Half2 twice(float value) {
  return twice(static_cast<std::uint32_t>(__half_as_ushort(__float2half_rn(value))));
}
// The bits of a half that holds `value`, which must be exact or is cut off; |value| in [2^-14,
// 65504].
__host__ __device__ constexpr std::uint32_t half_bits(double value) {
  const std::uint32_t sign = value < 0 ? 0x8000u : 0u;
  double magnitude = value < 0 ? -value : value;
  if (magnitude == 0) return sign;
  int exponent = 0;
  for (; magnitude >= 2; magnitude /= 2) ++exponent;
  for (; magnitude < 1; magnitude *= 2) --exponent;
  return sign | static_cast<std::uint32_t>((exponent + 15) << 10) |
         static_cast<std::uint32_t>((magnitude - 1) * 1024 + 0.5);
}
__host__ __device__ constexpr Half2 twice_constant(double value) { return twice(half_bits(value)); }

}  // namespace sotto::cuda

// The micro-kernel's arithmetic in fp32; attention_kernels_avx512.cpp has others. An arithmetic
// says how 32-bit words of kDepth numbers, neighbours along the summed dimension, are multiplied
// and summed. Included once per SIMD target, after hwy/highway.h.
#if defined(SOTTO_CPU_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_PRODUCTS_INL_H_
#undef SOTTO_CPU_PRODUCTS_INL_H_
#else
#define SOTTO_CPU_PRODUCTS_INL_H_
#endif

#include <bit>
#include <cstdint>

#include "cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

struct Fp32Products {
  static constexpr int kDepth = 1;
  using Sum = Vec;
  static HWY_INLINE Vec start(const std::int32_t*) { return hn::Zero(F32()); }
  static HWY_INLINE Vec add(Vec sum, hn::Vec<U32> row, hn::Vec<U32> number) {
    return hn::MulAdd(hn::BitCast(F32(), number), hn::BitCast(F32(), row), sum);
  }
  static HWY_INLINE Vec value(Vec sum) { return sum; }

  // P in words; what add() sums words with; a number of a word.
  static HWY_INLINE hn::Vec<U32> pack(const Vec (&p)[1]) { return hn::BitCast(U32(), p[0]); }
  static HWY_INLINE hn::Vec<U32> ones() { return hn::BitCast(U32(), hn::Set(F32(), 1.0f)); }
  static float unpack(std::uint32_t word, int) { return std::bit_cast<float>(word); }
};

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

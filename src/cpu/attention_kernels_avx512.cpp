// Products of INT8 (AVX512-VNNI) and of bf16 (AVX512-BF16). These are no targets of Highway's: the
// code is that for AVX3 with the instructions added, and dot_product.h says where it may run.
#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_kernels_avx512.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "cpu/attention_kernels_avx512.h"
#include "cpu/math-inl.h"
#include "cpu/products-inl.h"

#if HWY_TARGET == HWY_AVX3

HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
namespace sotto::cpu::HWY_NAMESPACE::with_int8 {

// Rows of unsigned bytes (number + 128) times signed bytes; what the 128 adds is in the start.
struct Int8Products {
  static constexpr int kDepth = 4;
  using Sum = hn::Vec<I32>;
  static HWY_INLINE Sum start(const std::int32_t* start) { return hn::Set(I32(), *start); }
  static HWY_INLINE Sum add(Sum sum, hn::Vec<U32> row, hn::Vec<U32> number) {
    return Sum{_mm512_dpbusd_epi32(sum.raw, row.raw, number.raw)};
  }
  static HWY_INLINE Vec value(Sum sum) { return hn::ConvertTo(F32(), sum); }
};

#include "cpu/block_step-inl.h"

void attend(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  step_blocks<Int8Products, Fp32Products>(step, tile, block);
}

}  // namespace sotto::cpu::HWY_NAMESPACE::with_int8
HWY_POP_ATTRIBUTES

HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni,avx512bf16")
namespace sotto::cpu::HWY_NAMESPACE::with_bf16 {

// The first number of a pair is in the low half.
struct Bf16Products {
  static constexpr int kDepth = 2;
  using Sum = Vec;
  static HWY_INLINE Vec start(const std::int32_t*) { return hn::Zero(F32()); }
  static HWY_INLINE Vec add(Vec sum, hn::Vec<U32> row, hn::Vec<U32> number) {
    return Vec{_mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(row.raw),
                                reinterpret_cast<__m512bh>(number.raw))};
  }
  static HWY_INLINE Vec value(Vec sum) { return sum; }

  static HWY_INLINE hn::Vec<U32> pack(const Vec (&p)[2]) {
    alignas(64) static constexpr std::uint16_t kInterleave[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh halves = _mm512_cvtne2ps_pbh(p[1].raw, p[0].raw);  // all p[0], then all p[1]
    return hn::Vec<U32>{_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave),
                                                 reinterpret_cast<__m512i>(halves))};
  }
  static HWY_INLINE hn::Vec<U32> ones() { return hn::Set(U32(), 0x3f803f80u); }
  static float unpack(std::uint32_t word, int i) {
    return std::bit_cast<float>(i == 0 ? word << 16 : word & 0xffff0000u);
  }
};

#include "cpu/block_step-inl.h"

void attend(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  if (step.arithmetic.qk == Product::int8) {
    step_blocks<with_int8::Int8Products, Bf16Products>(step, tile, block);
  } else {
    step_blocks<Bf16Products, Bf16Products>(step, tile, block);
  }
}

}  // namespace sotto::cpu::HWY_NAMESPACE::with_bf16
HWY_POP_ATTRIBUTES

namespace sotto::cpu {

void attend_tile_avx512(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  if (step.arithmetic.pv == Product::bf16) {
    HWY_NAMESPACE::with_bf16::attend(step, tile, block);
  } else {
    HWY_NAMESPACE::with_int8::attend(step, tile, block);
  }
}

}  // namespace sotto::cpu

#elif HWY_ONCE && !HWY_ARCH_X86
namespace sotto::cpu {

void attend_tile_avx512(const TileStep&, const KeyTile&, const RowBlock&) {}  // never chosen

}  // namespace sotto::cpu
#endif

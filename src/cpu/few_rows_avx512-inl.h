// AVX-512 beyond Highway 1.0.3, for few_rows_kernels.cpp: widening e4m3 and INT8 to bf16 by table
// look-ups (VBMI), and products of bf16 pairs (AVX512-BF16). Included once per SIMD target.
#if defined(SOTTO_CPU_FEW_ROWS_AVX512_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_FEW_ROWS_AVX512_INL_H_
#undef SOTTO_CPU_FEW_ROWS_AVX512_INL_H_
#else
#define SOTTO_CPU_FEW_ROWS_AVX512_INL_H_
#endif

#include <hwy/highway.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "cpu/math-inl.h"
#include "sotto/numerics.h"

// As HWY_BEFORE_NAMESPACE(). The compiler may then use AVX512-BF16 in this file alone, which it
// does where it is told to; fits_bf16_products() guards that.
#undef SOTTO_BEFORE_FEW_ROWS_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL
#define SOTTO_BEFORE_FEW_ROWS_NAMESPACE()           \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16") \
  static_assert(true, "For requiring trailing semicolon")
#else
#define SOTTO_BEFORE_FEW_ROWS_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif

#if HWY_TARGET == HWY_AVX3_DL

SOTTO_BEFORE_FEW_ROWS_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

// The two bytes of the bf16 number of a code's lower 7 bits.
struct Bf16Table {
  alignas(64) std::array<std::uint8_t, 128> low{}, high{};
};

template <class F>
constexpr Bf16Table make_bf16_table(F&& value) {
  Bf16Table table;
  for (std::size_t code = 0; code < 128; ++code) {
    const std::uint16_t bits = bf16(value(static_cast<std::uint8_t>(code))).bits;
    table.low[code] = static_cast<std::uint8_t>(bits);
    table.high[code] = static_cast<std::uint8_t>(bits >> 8);
  }
  return table;
}

inline constexpr Bf16Table kE4m3Magnitudes =
    make_bf16_table([](std::uint8_t code) { return static_cast<float>(e4m3::from_bits(code)); });
inline constexpr Bf16Table kNonNegative =
    make_bf16_table([](std::uint8_t code) { return static_cast<float>(code); });
inline constexpr Bf16Table kNegative =
    make_bf16_table([](std::uint8_t code) { return static_cast<float>(code) - 128.0f; });

HWY_INLINE __m512i look_up(const std::array<std::uint8_t, 128>& table, __m512i codes) {
  return _mm512_permutex2var_epi8(_mm512_load_si512(table.data()), codes,
                                  _mm512_load_si512(table.data() + 64));
}

// Up to `left` bytes, then zeros.
HWY_INLINE __m512i load_bytes(const void* in, std::int64_t left) {
  if (left >= 64) return _mm512_loadu_si512(in);
  return _mm512_maskz_loadu_epi8((std::uint64_t{1} << left) - 1, in);
}

// 64 bytes as 64 words. Byte d becomes word place_of_widened(d): of each 16 bytes the first 8 are
// in words[0], the others in words[1].
HWY_INLINE void join_bytes(__m512i low, __m512i high, __m512i (&words)[2]) {
  words[0] = _mm512_unpacklo_epi8(low, high);
  words[1] = _mm512_unpackhi_epi8(low, high);
}
inline std::int64_t place_of_widened(std::int64_t d) {
  return d % 16 / 8 * 32 + d / 16 * 8 + d % 8;
}

// Numbers as bf16, `left` of them or all that fit.

HWY_INLINE void load_bf16(const bf16* in, std::int64_t left, __m512i (&words)[1]) {
  words[0] = load_bytes(in, left * 2);
}

HWY_INLINE void widen_e4m3(__m512i codes, __m512i (&words)[2]) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  // 0xea: (codes and sign) or magnitude.
  const __m512i high =
      _mm512_ternarylogic_epi32(codes, sign, look_up(kE4m3Magnitudes.high, codes), 0xea);
  join_bytes(look_up(kE4m3Magnitudes.low, codes), high, words);
}

HWY_INLINE void load_bf16(const e4m3* in, std::int64_t left, __m512i (&words)[2]) {
  widen_e4m3(load_bytes(in, left), words);
}

HWY_INLINE void load_bf16(const std::int8_t* in, std::int64_t left, __m512i (&words)[2]) {
  const __m512i codes = load_bytes(in, left);
  const __mmask64 negative = _mm512_movepi8_mask(codes);
  const auto number = [&](const auto& non_negatives, const auto& negatives) {
    return _mm512_mask_blend_epi8(negative, look_up(non_negatives, codes),
                                  look_up(negatives, codes));
  };
  join_bytes(number(kNonNegative.low, kNegative.low), number(kNonNegative.high, kNegative.high),
             words);
}

HWY_INLINE Vec add_bf16_products(__m512i a, __m512i b, Vec sum) {
  return Vec{_mm512_dpbf16_ps(sum.raw, (__m512bh)a, (__m512bh)b)};
}

// Products of Q and K in pairs of bf16, summed in fp32. Subnormal numbers count as 0.
template <class T>
struct Bf16Products {
  using Key = T;
  using Number = bf16;  // of Q
  using Operand = __m512i;
  static constexpr int kVecs = sizeof(T) == 1 ? 2 : 1;
  static constexpr std::int64_t kDims = kVecs * 32;
  static std::int64_t place(std::int64_t d) { return sizeof(T) == 1 ? place_of_widened(d) : d; }
  static HWY_INLINE Operand load_query(const bf16* q) { return _mm512_load_si512(q); }
  static HWY_INLINE void load_key(const T* in, std::int64_t left, Operand (&k)[kVecs]) {
    load_bf16(in, left, k);
  }
  static HWY_INLINE Vec multiply_add(Operand q, Operand k, Vec sum) {
    return add_bf16_products(q, k, sum);
  }
};

// Products of P and V in bf16, two keys at a time: numbers of the same channel lie side by side.
template <class T>
struct Bf16Values {
  using Value = T;
  using Weight = bf16;
  using Operand = __m512i;
  static constexpr int kKeys = 2;
  static constexpr int kVecs = sizeof(T) == 1 ? 4 : 2;
  static constexpr std::int64_t kDims = kVecs * 16;
  // Unpacking takes 4 channels of each 16 bytes at a time.
  static std::int64_t place(std::int64_t d) {
    constexpr std::int64_t kChunk = kVecs * 4;
    return d % kChunk / 4 * 16 + d / kChunk * 4 + d % 4;
  }

  static HWY_INLINE void load_values(const bf16* const (&in)[2], std::int64_t left,
                                     Operand (&x)[2]) {
    const __m512i a = load_bytes(in[0], left * 2), b = load_bytes(in[1], left * 2);
    x[0] = _mm512_unpacklo_epi16(a, b);
    x[1] = _mm512_unpackhi_epi16(a, b);
  }
  static HWY_INLINE void load_values(const e4m3* const (&in)[2], std::int64_t left,
                                     Operand (&x)[4]) {
    const __m512i a = load_bytes(in[0], left), b = load_bytes(in[1], left);
    __m512i words[2];
    widen_e4m3(_mm512_unpacklo_epi8(a, b), words);
    x[0] = words[0];
    x[1] = words[1];
    widen_e4m3(_mm512_unpackhi_epi8(a, b), words);
    x[2] = words[0];
    x[3] = words[1];
  }

  static HWY_INLINE Operand load_weights(const bf16* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static HWY_INLINE Vec multiply_add(Operand weights, Operand x, Vec sum) {
    return add_bf16_products(weights, x, sum);
  }

  static HWY_INLINE Vec round(Vec p) {
    const __m256i codes = (__m256i)_mm512_cvtneps_pbh(p.raw);
    return Vec{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16))};
  }
  static HWY_INLINE void store_weights(Vec p, bf16* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(p.raw));
  }
};

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HWY_TARGET == HWY_AVX3_DL
#endif

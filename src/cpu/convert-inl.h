// Reading and rounding the number formats of sotto/numerics.h, a vector at a time and with the same
// bits. Included once per SIMD target, after hwy/highway.h.
#if defined(SOTTO_CPU_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_CONVERT_INL_H_
#undef SOTTO_CPU_CONVERT_INL_H_
#else
#define SOTTO_CPU_CONVERT_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "sotto/numerics.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Whether f16 is read by an instruction: F16C comes with AVX2.
#undef SOTTO_CPU_HAS_F16
#define SOTTO_CPU_HAS_F16 (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2)

// Calls f(tag, i) for i in steps of a vector over [0, n), the rest one by one.
template <class F>
HWY_INLINE void for_each_vector(std::int64_t n, F&& f) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    f(d, i);
    f(d, i + lanes);
    f(d, i + 2 * lanes);
    f(d, i + 3 * lanes);
  }
  for (; i + lanes <= n; i += lanes) f(d, i);
  for (; i < n; ++i) f(hn::CappedTag<float, 1>(), i);
}

// The value of codes without a sign of a format with `kExponent` and `kMantissa` bits: finite ones;
// all-ones exponents give what a larger range would.
template <int kExponent, int kMantissa, class D>
HWY_INLINE hn::Vec<D> decode_magnitude(D d, hn::Vec<hn::RebindToUnsigned<D>> code) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto normal = hn::BitCast(d, hn::Add(hn::ShiftLeft<23 - kMantissa>(code),
                                             hn::Set(du, std::uint32_t{127 - kBias} << 23)));
  // As an integer, not as a subnormal float: those are slow on some CPUs.
  const float step = static_cast<float>(1.0 / static_cast<double>(1 << (kBias + kMantissa - 1)));
  const auto subnormal = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, code)), hn::Set(d, step));
  return hn::IfThenElse(
      hn::RebindMask(d, hn::Lt(hn::BitCast(di, code), hn::Set(di, 1 << kMantissa))), subnormal,
      normal);
}

// The code of |x|, rounded to nearest even, in the low `kExponent + kMantissa` bits and a zero
// above them; bits of further up are open. `magnitude` is at most the format's largest number, or
// rounds to it.
template <int kExponent, int kMantissa, class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> encode_magnitude(D d, hn::Vec<D> magnitude) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  constexpr int kShift = 23 - kMantissa;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, magnitude);
  // 2^e: of the number or, below the normal numbers, of the smallest of those.
  const auto power = hn::Max(hn::And(bits, hn::Set(du, 0x7f800000u)),
                             hn::Set(du, static_cast<std::uint32_t>(127 + 1 - kBias) << 23));
  // Adding 2^(e + kShift) leaves |x| in units of the format's step there, rounded, in the low bits.
  // To those belongs (e + kBias - 1) << kMantissa: the exponent's bits give all of it but for a
  // constant, which the sum brings along.
  constexpr std::uint32_t kRest = static_cast<std::uint32_t>((kBias - 1 - 127) * (1 << kMantissa)) &
                                  ((2u << (kExponent + kMantissa)) - 1);
  constexpr float kAnchor =
      static_cast<float>(1 << kShift) * (1.0f + static_cast<float>(kRest) / (1 << 23));
  const auto sum = hn::MulAdd(hn::BitCast(d, power), hn::Set(d, kAnchor), magnitude);
  return hn::Add(hn::BitCast(du, sum), hn::ShiftRight<kShift>(power));
}

// Loads, widened to float.

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* in) {
  return hn::LoadU(d, in);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const bf16* in) {
  const hn::Rebind<std::uint16_t, D> d16;
  const auto wide = hn::PromoteTo(hn::RebindToUnsigned<D>(),
                                  hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(in)));
  return hn::BitCast(d, hn::ShiftLeft<16>(wide));
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const f16* in) {
#if SOTTO_CPU_HAS_F16
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(in)));
#else
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToUnsigned<D> du;
  const auto wide = hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(in)));
  const auto code = hn::And(wide, hn::Set(du, 0x7fffu));
  const auto sign = hn::ShiftLeft<16>(hn::Xor(wide, code));
  const auto finite = hn::BitCast(du, decode_magnitude<5, 10>(d, code));
  const auto infinite = hn::Or(hn::ShiftLeft<13>(code), hn::Set(du, 0x7f800000u));
  return hn::BitCast(
      d, hn::Or(sign, hn::IfThenElse(hn::Gt(code, hn::Set(du, 0x7bffu)), infinite, finite)));
#endif
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const e4m3* in) {
  const hn::Rebind<std::uint8_t, D> d8;
  const hn::RebindToUnsigned<D> du;
  const auto wide = hn::PromoteTo(du, hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(in)));
  const auto code = hn::And(wide, hn::Set(du, 0x7fu));
  const auto sign = hn::ShiftLeft<24>(hn::Xor(wide, code));
  const auto finite = hn::BitCast(du, decode_magnitude<4, 3>(d, code));
  const auto nan = hn::Set(du, 0x7fc00000u);
  return hn::BitCast(d,
                     hn::Or(sign, hn::IfThenElse(hn::Eq(code, hn::Set(du, 0x7fu)), nan, finite)));
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const std::int8_t* in) {
  const hn::Rebind<std::int8_t, D> d8;
  return hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<D>(), hn::LoadU(d8, in)));
}

// Codes in the low 16 or 8 bits of each 32-bit lane (the rest is open). ..._in_range: of numbers
// that are finite and do not round beyond the format's largest; the others: what sotto's
// constructors from float give, for any x.

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_bf16_in_range(D, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  return hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_f16_in_range(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto sign = hn::ShiftRight<16>(hn::BitCast(du, x));
  return hn::OrAnd(encode_magnitude<5, 10>(d, hn::Abs(x)), sign, hn::Set(du, 0x8000u));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_e4m3_in_range(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto sign = hn::ShiftRight<24>(hn::BitCast(du, x));
  return hn::OrAnd(encode_magnitude<4, 3>(d, hn::Abs(x)), sign, hn::Set(du, 0x80u));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_int8_in_range(D d, hn::Vec<D> x) {
  // The sum has a unit of 1 and ends in x's two's complement.
  return hn::BitCast(hn::RebindToUnsigned<D>(), hn::Add(x, hn::Set(d, 12582912.0f)));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_bf16(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto magnitude = hn::BitCast(du, hn::Abs(x));
  const auto sign = hn::Xor(bits, magnitude);
  // Numbers that would round to Inf become the largest number.
  const auto largest = hn::Or(sign, hn::Set(du, 0x7f7f0000u));
  const auto inf_bits = hn::Set(du, 0x7f800000u);
  const auto number = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7f7f0000u)), largest, bits);
  const auto infinite = hn::ShiftRight<16>(bits);
  const auto nan = hn::Or(infinite, hn::Set(du, 0x40u));
  return hn::IfThenElse(hn::Gt(magnitude, inf_bits), nan,
                        hn::IfThenElse(hn::Eq(magnitude, inf_bits), infinite,
                                       round_to_bf16_in_range(d, hn::BitCast(d, number))));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_f16(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto magnitude = hn::BitCast(du, hn::Abs(x));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u));
  const auto largest = hn::Set(d, 65504.0f);
  const auto number = hn::Clamp(x, hn::Neg(largest), largest);
  const auto nan =
      hn::Or(hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 0x3ffu)), hn::Set(du, 0x7e00u));
  const auto inf_bits = hn::Set(du, 0x7f800000u);
  return hn::IfThenElse(
      hn::Gt(magnitude, inf_bits), hn::Or(sign, nan),
      hn::IfThenElse(hn::Eq(magnitude, inf_bits), hn::Or(sign, hn::Set(du, 0x7c00u)),
                     round_to_f16_in_range(d, number)));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_e4m3(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto largest = hn::Set(d, e4m3::kMax);
  const auto number = round_to_e4m3_in_range(d, hn::Clamp(x, hn::Neg(largest), largest));
  const auto nan = hn::Or(hn::ShiftRight<24>(hn::BitCast(du, x)), hn::Set(du, 0x7fu));
  return hn::IfThenElse(hn::RebindMask(du, hn::Eq(x, x)), number, nan);
}

// Saturates at ±127; NaN is 0.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_int8(D d, hn::Vec<D> x) {
  const auto number = hn::IfThenElseZero(hn::Eq(x, x), x);
  return round_to_int8_in_range(d, hn::Clamp(number, hn::Set(d, -127.0f), hn::Set(d, 127.0f)));
}

// Stores, rounded.

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> x, float* out) {
  hn::StoreU(x, d, out);
}

// The low bits of each lane.
template <class D, class Code>
HWY_INLINE void store_codes(D, hn::Vec<hn::RebindToUnsigned<D>> codes, Code* out) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3  // where Highway takes more than one instruction
  if constexpr (sizeof(Code) == 1 && hn::MaxLanes(D()) == 16) {
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(codes.raw));
  }
#endif
  const hn::Rebind<Code, D> d_code;
  hn::StoreU(hn::TruncateTo(d_code, codes), d_code, out);
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> x, bf16* out) {
  store_codes(d, round_to_bf16(d, x), reinterpret_cast<std::uint16_t*>(out));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> x, f16* out) {
  store_codes(d, round_to_f16(d, x), reinterpret_cast<std::uint16_t*>(out));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> x, e4m3* out) {
  store_codes(d, round_to_e4m3(d, x), reinterpret_cast<std::uint8_t*>(out));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> x, std::int8_t* out) {
  store_codes(d, round_to_int8(d, x), reinterpret_cast<std::uint8_t*>(out));
}

// The same for numbers in range.

template <class D>
HWY_INLINE void store_in_range(D d, hn::Vec<D> x, float* out) {
  hn::StoreU(x, d, out);
}

template <class D>
HWY_INLINE void store_in_range(D d, hn::Vec<D> x, bf16* out) {
  store_codes(d, round_to_bf16_in_range(d, x), reinterpret_cast<std::uint16_t*>(out));
}

template <class D>
HWY_INLINE void store_in_range(D d, hn::Vec<D> x, f16* out) {
  store_codes(d, round_to_f16_in_range(d, x), reinterpret_cast<std::uint16_t*>(out));
}

template <class D>
HWY_INLINE void store_in_range(D d, hn::Vec<D> x, e4m3* out) {
  store_codes(d, round_to_e4m3_in_range(d, x), reinterpret_cast<std::uint8_t*>(out));
}

template <class D>
HWY_INLINE void store_in_range(D d, hn::Vec<D> x, std::int8_t* out) {
  store_codes(d, round_to_int8_in_range(d, x), reinterpret_cast<std::uint8_t*>(out));
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

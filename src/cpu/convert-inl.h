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

// Calls f(tag, i) for i in steps of a vector over [0, n), the rest one by one.
template <class F>
HWY_INLINE void for_each_vector(std::int64_t n, F&& f) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
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

// The code of |x|, rounded to nearest even. `magnitude` is at most the format's largest number.
template <int kExponent, int kMantissa, class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> encode_magnitude(D d, hn::Vec<D> magnitude) {
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  constexpr int kShift = 23 - kMantissa;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, magnitude);
  const auto odd = hn::And(hn::ShiftRight<kShift>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, (1u << (kShift - 1)) - 1)), odd);
  const auto normal = hn::Sub(hn::ShiftRight<kShift>(rounded),
                              hn::Set(du, std::uint32_t{127 - kBias} << kMantissa));
  // A float of this size ends where the target's subnormals end: adding it rounds to their grid.
  const auto anchor =
      hn::Set(du, static_cast<std::uint32_t>(127 + 1 - kBias - kMantissa + 23) << 23);
  const auto subnormal =
      hn::Sub(hn::BitCast(du, hn::Add(magnitude, hn::BitCast(d, anchor))), anchor);
  const auto smallest_normal =
      hn::BitCast(d, hn::Set(du, static_cast<std::uint32_t>(127 + 1 - kBias) << 23));
  return hn::IfThenElse(hn::RebindMask(du, hn::Lt(magnitude, smallest_normal)), subnormal, normal);
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
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToUnsigned<D> du;
  const auto wide = hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(in)));
  const auto code = hn::And(wide, hn::Set(du, 0x7fffu));
  const auto sign = hn::ShiftLeft<16>(hn::Xor(wide, code));
  const auto finite = hn::BitCast(du, decode_magnitude<5, 10>(d, code));
  const auto infinite = hn::Or(hn::ShiftLeft<13>(code), hn::Set(du, 0x7f800000u));
  return hn::BitCast(
      d, hn::Or(sign, hn::IfThenElse(hn::Gt(code, hn::Set(du, 0x7bffu)), infinite, finite)));
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

// Codes, one in each 32-bit lane; what sotto's constructors from float give.

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_bf16(D, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto magnitude = hn::BitCast(du, hn::Abs(x));
  const auto odd = hn::And(hn::ShiftRight<16>(magnitude), hn::Set(du, 1u));
  const auto rounded =
      hn::Min(hn::ShiftRight<16>(hn::Add(hn::Add(magnitude, hn::Set(du, 0x7fffu)), odd)),
              hn::Set(du, 0x7f7fu));
  const auto infinite = hn::ShiftRight<16>(magnitude);
  const auto nan = hn::Or(infinite, hn::Set(du, 0x40u));
  const auto inf_bits = hn::Set(du, 0x7f800000u);
  const auto code = hn::IfThenElse(hn::Gt(magnitude, inf_bits), nan,
                                   hn::IfThenElse(hn::Eq(magnitude, inf_bits), infinite, rounded));
  return hn::Or(code, hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u)));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_f16(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto magnitude = hn::Abs(x);
  const auto magnitude_bits = hn::BitCast(du, magnitude);
  const auto finite = encode_magnitude<5, 10>(d, hn::Min(magnitude, hn::Set(d, 65504.0f)));
  const auto nan =
      hn::Or(hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 0x3ffu)), hn::Set(du, 0x7e00u));
  const auto inf_bits = hn::Set(du, 0x7f800000u);
  const auto code = hn::IfThenElse(
      hn::Gt(magnitude_bits, inf_bits), nan,
      hn::IfThenElse(hn::Eq(magnitude_bits, inf_bits), hn::Set(du, 0x7c00u), finite));
  return hn::Or(code, hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u)));
}

template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_to_e4m3(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto magnitude = hn::Abs(x);
  const auto finite = encode_magnitude<4, 3>(d, hn::Min(magnitude, hn::Set(d, e4m3::kMax)));
  const auto is_number = hn::RebindMask(du, hn::Eq(x, x));
  const auto code = hn::IfThenElse(is_number, finite, hn::Set(du, 0x7fu));
  return hn::Or(code, hn::And(hn::ShiftRight<24>(hn::BitCast(du, x)), hn::Set(du, 0x80u)));
}

// Saturates at ±127; NaN is 0.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> round_to_int8(D d, hn::Vec<D> x) {
  const auto number = hn::IfThenElseZero(hn::Eq(x, x), x);
  return hn::NearestInt(hn::Clamp(number, hn::Set(d, -127.0f), hn::Set(d, 127.0f)));
}

// Stores, rounded.

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> x, float* out) {
  hn::StoreU(x, d, out);
}

template <class D>
HWY_INLINE void store_codes(D, hn::Vec<hn::RebindToUnsigned<D>> codes, std::uint16_t* out) {
  const hn::Rebind<std::uint16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<D>(), codes)), d16, out);
}

template <class D>
HWY_INLINE void store_codes(D, hn::Vec<hn::RebindToUnsigned<D>> codes, std::uint8_t* out) {
  const hn::Rebind<std::uint8_t, D> d8;
  hn::StoreU(hn::DemoteTo(d8, hn::BitCast(hn::RebindToSigned<D>(), codes)), d8, out);
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
  const hn::Rebind<std::int8_t, D> d8;
  hn::StoreU(hn::DemoteTo(d8, round_to_int8(d, x)), d8, out);
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

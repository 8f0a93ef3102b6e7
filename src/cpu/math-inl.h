// Arithmetic of softmax in vectors of fp32: exp2, tanh, rounding P to e4m3. Included once per SIMD
// target, after hwy/highway.h.
//
// A NaN in a lane stays a NaN in that lane, whatever the target does in its min and max.

#if defined(SOTTO_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_MATH_INL_H_
#undef SOTTO_CPU_MATH_INL_H_
#else
#define SOTTO_CPU_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Head sizes are multiples of 16: with at most 16 lanes a row has no remainder.
using F32 = hn::CappedTag<float, 16>;
using Vec = hn::Vec<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using I32 = hn::RebindToSigned<F32>;

// min(max(x, -limit), limit); NaN stays: where an operand is NaN, x86's min and max return their
// second one, but ARM's and Highway's scalar ones the number.
HWY_INLINE Vec clamp(Vec x, Vec limit) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Max(hn::Neg(limit), hn::Min(limit, x));
#else
  x = hn::IfThenElse(hn::Gt(x, limit), limit, x);
  return hn::IfThenElse(hn::Lt(x, hn::Neg(limit)), hn::Neg(limit), x);
#endif
}

// 2^x = scale · (1 + fraction): x split into an integer and a rest in [-1/2, 1/2].
struct Exp2Parts {
  Vec scale;     // 2^(integer + kBias)
  Vec fraction;  // 2^rest - 1, to a relative error as small as its own
};

// For x in [-126, 127] - kBias. kDegree 6: polynomial error 2e-9; 4: 3e-6 (enough for a P of e4m3).
// The coefficients are minimax for (2^r - 1) / r on [-1/2, 1/2], relative to 2^r.
template <int kDegree, int kBias>
HWY_INLINE Exp2Parts exp2_parts(Vec x) {
  const F32 d;
  // Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits; with the bias of
  // fp32 on top, moving them into the exponent's place makes a power of two.
  const Vec magic = hn::Set(d, 12582912.0f + 127.0f + kBias);
  const Vec shifted = hn::Add(x, magic);
  const Vec r = hn::Sub(x, hn::Sub(shifted, hn::Set(d, 12582912.0f + 127.0f + kBias)));
  Vec q;
  if constexpr (kDegree == 6) {
    q = hn::Set(d, 1.5353361812e-4f);
    q = hn::MulAdd(q, r, hn::Set(d, 1.3398874445e-3f));
    q = hn::MulAdd(q, r, hn::Set(d, 9.6184373583e-3f));
    q = hn::MulAdd(q, r, hn::Set(d, 5.5503324710e-2f));
    q = hn::MulAdd(q, r, hn::Set(d, 2.4022647914e-1f));
    q = hn::MulAdd(q, r, hn::Set(d, 6.9314720286e-1f));
  } else {
    static_assert(kDegree == 4);
    q = hn::Set(d, 9.5828528656e-3f);
    q = hn::MulAdd(q, r, hn::Set(d, 5.5906424925e-2f));
    q = hn::MulAdd(q, r, hn::Set(d, 2.4024098617e-1f));
    q = hn::MulAdd(q, r, hn::Set(d, 6.9312419336e-1f));
  }
  return {hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(U32(), shifted))), hn::Mul(q, r)};
}

// 2^(x + kBias) for x ≤ 0; 0 below x = -126 (-Inf, too).
template <int kDegree, int kBias>
HWY_INLINE Vec exp2_negative(Vec x) {
  const F32 d;
  const Exp2Parts p = exp2_parts<kDegree, kBias>(x);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)),
                            hn::MulAdd(p.scale, p.fraction, p.scale));
}

// tanh(x) with a small relative error near 0, too: expm1(2|x|) / (expm1(2|x|) + 2).
HWY_INLINE Vec tanh(Vec x) {
  const F32 d;
  constexpr float kTwoLog2e = 2.8853900818f;
  const Vec magnitude = clamp(hn::Abs(x), hn::Set(d, 12.0f));  // tanh(12) is 1 in fp32
  const Exp2Parts p = exp2_parts<6, 0>(hn::Mul(magnitude, hn::Set(d, kTwoLog2e)));
  const Vec one = hn::Set(d, 1.0f);
  const Vec expm1 = hn::MulAdd(p.scale, p.fraction, hn::Sub(p.scale, one));
  return hn::CopySign(hn::Div(expm1, hn::Add(expm1, hn::Set(d, 2.0f))), x);
}

// Scores stay within ±2^126, so that neither they nor a sum with a mask of that size overflow.
HWY_INLINE Vec bounded_score(Vec z) { return clamp(z, hn::Set(F32(), 0x1p126f)); }

// cap · tanh(z / cap), cap > 0. A z far below the cap is as it was, even where z / cap would
// underflow.
HWY_INLINE Vec soft_cap(Vec z, float cap) {
  const F32 d;
  const float inverse = std::min(1.0f / cap, std::numeric_limits<float>::max());
  const Vec ratio = hn::Mul(z, hn::Set(d, inverse));
  const auto straight = hn::Lt(hn::Abs(ratio), hn::Set(d, 0x1p-13f));
  return hn::IfThenElse(straight, z, hn::Mul(tanh(ratio), hn::Set(d, cap)));
}

// The nearest e4m3 number (ties to even) of x in [0, 448], as fp32.
HWY_INLINE Vec nearest_e4m3(Vec x) {
  const F32 d;
  const U32 du;
  // Adding 2^(e + 20), where e is x's exponent (that of the smallest normal number at least),
  // leaves no bits below 2^(e - 3), the distance of neighbours in e4m3.
  const auto exponent = hn::And(hn::BitCast(du, x), hn::Set(du, 0x7f800000u));
  const auto smallest = hn::Set(du, (127u - 6u) << 23);
  const auto anchor_bits = hn::Add(hn::Max(exponent, smallest), hn::Set(du, 20u << 23));
  const Vec anchor = hn::BitCast(d, anchor_bits);
  return hn::Sub(hn::Add(x, anchor), anchor);
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

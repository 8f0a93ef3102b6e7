/// @file
/// The number formats of low-precision attention, bit for bit.
///
/// Converting from float rounds to nearest, ties to even. Formats and rules:
///
///     type   bits  layout  largest  finite overflow  +-Inf    NaN
///     bf16   16    1-8-7   3.39e38  largest          kept     kept, made quiet
///     f16    16    1-5-10  65504    largest          kept     kept, made quiet
///     e4m3   8     1-4-3   448      largest          largest  0x7f | sign (e4m3fn has no Inf)
///     e5m2   8     1-5-2   57344    largest          largest  0x7f | sign (reads all NaN codes)
///     e2m1   4     1-2-1   6        largest          largest  0x7 (+6), as CUDA's satfinite
///     ue8m0  8     0-8-0   2^127    largest          2^127    0xff, as negatives; 0: 2^-127
///
/// "Saturating" means that a finite float never becomes Inf or NaN. e4m3, e5m2 (OCP 8-bit
/// Floating Point Specification 1.0) and e2m1, ue8m0 (OCP Microscaling Formats 1.0).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace sotto {

namespace detail {

// Rounds |x| to a float format with `ExponentBits` and `MantissaBits` (bias 2^(ExponentBits-1)-1),
// saturating at the code `max_code`; returns the code without a sign. x must not be NaN.
template <int ExponentBits, int MantissaBits>
constexpr std::uint32_t encode_magnitude(float x, std::uint32_t max_code) {
  constexpr int kBias = (1 << (ExponentBits - 1)) - 1;
  constexpr int kShift = 23 - MantissaBits;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  const int exponent = static_cast<int>(bits >> 23) - 127 + kBias;
  std::uint32_t code;
  if (exponent >= 1) {
    // Normal: add half a unit (less one, plus the last kept bit: ties to even); a carry runs into
    // the exponent, as it should.
    const std::uint32_t rounded = bits + ((1u << (kShift - 1)) - 1) + ((bits >> kShift) & 1u);
    const std::int64_t rebased = static_cast<std::int64_t>(rounded >> kShift) -
                                 (static_cast<std::int64_t>(127 - kBias) << MantissaBits);
    code = static_cast<std::uint32_t>(rebased);
  } else {
    // Subnormal in the target: shift the full significand right, rounding to even.
    const int shift = kShift + 1 - exponent;
    if (shift > 25) return 0;
    std::uint32_t significand = bits & 0x7fffffu;
    if (bits >> 23) significand |= 0x800000u;
    const std::uint32_t half = 1u << (shift - 1);
    const std::uint32_t rest = significand & ((1u << shift) - 1);
    code = significand >> shift;
    if (rest > half || (rest == half && (code & 1u))) ++code;
  }
  return code < max_code ? code : max_code;
}

// The value of a code without its sign; Inf and NaN codes are the caller's business.
template <int ExponentBits, int MantissaBits>
constexpr float decode_magnitude(std::uint32_t code) {
  constexpr int kBias = (1 << (ExponentBits - 1)) - 1;
  const std::uint32_t exponent = code >> MantissaBits;
  const std::uint32_t mantissa = code & ((1u << MantissaBits) - 1);
  if (exponent != 0) {
    return std::bit_cast<float>(((exponent + 127 - kBias) << 23) |
                                (mantissa << (23 - MantissaBits)));
  }
  constexpr float kSmallest =  // value of mantissa 1 at exponent 0: 2^(1 - bias - MantissaBits)
      std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - kBias - MantissaBits) << 23);
  return static_cast<float>(mantissa) * kSmallest;
}

constexpr bool is_nan(float x) { return x != x; }
constexpr std::uint32_t sign_bit(float x) { return std::bit_cast<std::uint32_t>(x) >> 31; }
constexpr bool is_inf(float x) {
  return (std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) == 0x7f800000u;
}
constexpr float with_sign(float magnitude, bool negative) {
  return negative ? -magnitude : magnitude;
}

}  // namespace detail

/// The upper half of a float.
struct bf16 {
  std::uint16_t bits = 0;  ///< the code

  bf16() = default;
  /// To the nearest value, by the rules at the top of this file.
  constexpr explicit bf16(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    if (detail::is_nan(x)) {
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);
    } else if (detail::is_inf(x)) {
      bits = static_cast<std::uint16_t>(u >> 16);
    } else {
      const std::uint32_t magnitude = u & 0x7fffffffu;
      const std::uint32_t rounded = (magnitude + 0x7fffu + ((magnitude >> 16) & 1u)) >> 16;
      bits = static_cast<std::uint16_t>((rounded < 0x7f7fu ? rounded : 0x7f7fu) |
                                        ((u >> 16) & 0x8000u));
    }
  }
  /// The value, exactly.
  constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  /// The number with this code.
  static constexpr bf16 from_bits(std::uint16_t bits) {
    bf16 r;
    r.bits = bits;
    return r;
  }
};

/// IEEE 754 binary16.
struct f16 {
  std::uint16_t bits = 0;  ///< the code

  f16() = default;
  /// To the nearest value, by the rules at the top of this file.
  constexpr explicit f16(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    std::uint32_t code;
    if (detail::is_nan(x)) {
      code = 0x7e00u | ((u >> 13) & 0x3ffu);
    } else if (detail::is_inf(x)) {
      code = 0x7c00u;
    } else {
      code = detail::encode_magnitude<5, 10>(x, 0x7bffu);
    }
    bits = static_cast<std::uint16_t>(code | (detail::sign_bit(x) << 15));
  }
  /// The value, exactly.
  constexpr explicit operator float() const {
    const std::uint32_t code = bits & 0x7fffu;
    float magnitude;
    if (code >= 0x7c00u) {
      magnitude = std::bit_cast<float>(0x7f800000u | ((code & 0x3ffu) << 13));
    } else {
      magnitude = detail::decode_magnitude<5, 10>(code);
    }
    return detail::with_sign(magnitude, bits >> 15);
  }
  /// The number with this code.
  static constexpr f16 from_bits(std::uint16_t bits) {
    f16 r;
    r.bits = bits;
    return r;
  }
};

/// FP8 with range 448; no infinities (e4m3fn).
struct e4m3 {
  std::uint8_t bits = 0;                 ///< the code
  static constexpr float kMax = 448.0f;  ///< the largest value

  e4m3() = default;
  /// To the nearest value, by the rules at the top of this file.
  constexpr explicit e4m3(float x)
      : bits(static_cast<std::uint8_t>(
            (detail::is_nan(x) ? 0x7fu : detail::encode_magnitude<4, 3>(x, 0x7eu)) |
            (detail::sign_bit(x) << 7))) {}
  /// The value, exactly.
  constexpr explicit operator float() const {
    const std::uint32_t code = bits & 0x7fu;
    return detail::with_sign(code == 0x7fu ? std::numeric_limits<float>::quiet_NaN()
                                           : detail::decode_magnitude<4, 3>(code),
                             bits >> 7);
  }
  /// The number with this code.
  static constexpr e4m3 from_bits(std::uint8_t bits) {
    e4m3 r;
    r.bits = bits;
    return r;
  }
};

/// FP8 with range 57344.
struct e5m2 {
  std::uint8_t bits = 0;                   ///< the code
  static constexpr float kMax = 57344.0f;  ///< the largest value

  e5m2() = default;
  /// To the nearest value, by the rules at the top of this file.
  constexpr explicit e5m2(float x)
      : bits(static_cast<std::uint8_t>(
            (detail::is_nan(x) ? 0x7fu : detail::encode_magnitude<5, 2>(x, 0x7bu)) |
            (detail::sign_bit(x) << 7))) {}
  /// The value, exactly.
  constexpr explicit operator float() const {
    const std::uint32_t code = bits & 0x7fu;
    float magnitude;
    if (code > 0x7cu) {
      magnitude = std::numeric_limits<float>::quiet_NaN();
    } else if (code == 0x7cu) {
      magnitude = std::numeric_limits<float>::infinity();
    } else {
      magnitude = detail::decode_magnitude<5, 2>(code);
    }
    return detail::with_sign(magnitude, bits >> 7);
  }
  /// The number with this code.
  static constexpr e5m2 from_bits(std::uint8_t bits) {
    e5m2 r;
    r.bits = bits;
    return r;
  }
};

/// Four bits, in the low nibble. Two of them share a byte in tensors of Dtype::e2m1x2.
struct e2m1 {
  std::uint8_t bits = 0;               ///< the code
  static constexpr float kMax = 6.0f;  ///< the largest value

  e2m1() = default;
  /// To the nearest value, by the rules at the top of this file.
  constexpr explicit e2m1(float x)
      : bits(static_cast<std::uint8_t>(detail::is_nan(x) ? 0x7u
                                                         : detail::encode_magnitude<2, 1>(x, 0x7u) |
                                                               (detail::sign_bit(x) << 3))) {}
  /// The value, exactly.
  constexpr explicit operator float() const {
    return detail::with_sign(detail::decode_magnitude<2, 1>(bits & 0x7u), (bits >> 3) & 1u);
  }
  /// The number with this code.
  static constexpr e2m1 from_bits(std::uint8_t bits) {
    e2m1 r;
    r.bits = bits;
    return r;
  }
};

/// A power of two, 2^(bits - 127); 0xff is NaN. The scale format of microscaling.
struct ue8m0 {
  std::uint8_t bits = 0;  ///< the code

  ue8m0() = default;
  /// To the nearest power of two. The middle, 1.5 * 2^e, goes up, as in ml_dtypes and torch: the
  /// last bit of a significand without stored bits is always odd.
  constexpr explicit ue8m0(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    if (detail::is_nan(x) || (detail::sign_bit(x) && (u << 1) != 0)) {
      bits = 0xff;
    } else if (u < 0x800000u || (u << 1) == 0) {
      // A subnormal float lies below 2^-126 (code 1); 2^-127 is mantissa 0x400000.
      bits = (u & 0x7fffffu) >= 0x600000u;
    } else {
      const std::uint32_t code = (u + 0x400000u) >> 23;
      bits = static_cast<std::uint8_t>(code < 0xfeu ? code : 0xfeu);
    }
  }
  /// The smallest power of two that is not below x: what a scale needs.
  static constexpr ue8m0 round_up(float x) {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
    if (detail::is_nan(x) || (detail::sign_bit(x) && (u << 1) != 0)) return from_bits(0xff);
    if (detail::is_inf(x)) return from_bits(0xfe);
    const std::uint32_t exponent = (u >> 23) & 0xffu;
    const std::uint32_t mantissa = u & 0x7fffffu;
    const std::uint32_t up = exponent == 0 ? (mantissa > 0x400000u) : (mantissa != 0);
    const std::uint32_t code = exponent + up;
    return from_bits(static_cast<std::uint8_t>(code < 0xfeu ? code : 0xfeu));
  }
  /// The value, exactly.
  constexpr explicit operator float() const {
    if (bits == 0xff) return std::numeric_limits<float>::quiet_NaN();
    return std::bit_cast<float>(bits == 0 ? 0x00400000u : static_cast<std::uint32_t>(bits) << 23);
  }
  /// The number with this code.
  static constexpr ue8m0 from_bits(std::uint8_t bits) {
    ue8m0 r;
    r.bits = bits;
    return r;
  }
};

}  // namespace sotto

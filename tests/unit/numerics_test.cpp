// Every code of every number format, and the rules of sotto/numerics.h. The same formats are
// compared with ml_dtypes in tests/python/test_numerics.py.
#include "sotto/numerics.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace sotto {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Everything is usable at compile time.
static_assert(static_cast<float>(e4m3(448.0f)) == 448.0f);
static_assert(e4m3(1e9f).bits == 0x7e && e4m3(-1e9f).bits == 0xfe);
static_assert(e4m3(kNan).bits == 0x7f && e4m3(-kNan).bits == 0xff);
static_assert(e5m2(1e9f).bits == 0x7b && static_cast<float>(e5m2(57344.0f)) == 57344.0f);
static_assert(e2m1(5.0f).bits == 0x6 && e2m1(-100.0f).bits == 0xf);
static_assert(f16(65504.0f).bits == 0x7bff && f16(1e9f).bits == 0x7bff);
static_assert(bf16(1.0f).bits == 0x3f80 && bf16(kInf).bits == 0x7f80);
static_assert(ue8m0(1.0f).bits == 127 && ue8m0::round_up(1.0001f).bits == 128);

struct Bf16 {
  using type = bf16;
  static constexpr std::uint32_t kMaxFinite = 0x7f7f, kSign = 0x8000;
};
struct F16 {
  using type = f16;
  static constexpr std::uint32_t kMaxFinite = 0x7bff, kSign = 0x8000;
};
struct E4m3 {
  using type = e4m3;
  static constexpr std::uint32_t kMaxFinite = 0x7e, kSign = 0x80;
};
struct E5m2 {
  using type = e5m2;
  static constexpr std::uint32_t kMaxFinite = 0x7b, kSign = 0x80;
};
struct E2m1 {
  using type = e2m1;
  static constexpr std::uint32_t kMaxFinite = 0x7, kSign = 0x8;
};

template <class Format>
class SignedFormat : public testing::Test {
 protected:
  using Type = typename Format::type;
  static float decode(std::uint32_t code) {
    return static_cast<float>(Type::from_bits(static_cast<decltype(Type::bits)>(code)));
  }
  static std::uint32_t encode(float x) { return Type(x).bits; }
  static constexpr std::uint32_t kMaxFinite = Format::kMaxFinite, kSign = Format::kSign;
};
using SignedFormats = testing::Types<Bf16, F16, E4m3, E5m2, E2m1>;
TYPED_TEST_SUITE(SignedFormat, SignedFormats);

TYPED_TEST(SignedFormat, EveryFiniteCodeComesBack) {
  for (std::uint32_t code = 0; code <= this->kMaxFinite; ++code) {
    ASSERT_EQ(this->encode(this->decode(code)), code);
    ASSERT_EQ(this->encode(this->decode(code | this->kSign)), code | this->kSign);
    ASSERT_EQ(this->decode(code | this->kSign), -this->decode(code));
  }
}

TYPED_TEST(SignedFormat, LargerCodesAreLargerNumbers) {
  EXPECT_EQ(this->decode(0), 0.0f);
  for (std::uint32_t code = 1; code <= this->kMaxFinite; ++code) {
    ASSERT_LT(this->decode(code - 1), this->decode(code)) << code;
    ASSERT_TRUE(std::isfinite(this->decode(code))) << code;
  }
}

// The middle of two neighbours goes to the even one; the floats beside it to the nearer one.
TYPED_TEST(SignedFormat, TiesGoToEven) {
  for (std::uint32_t code = 0; code < this->kMaxFinite; ++code) {
    const double low = this->decode(code), high = this->decode(code + 1);
    const auto middle = static_cast<float>((low + high) / 2);
    if (static_cast<double>(middle) != (low + high) / 2) continue;  // below bf16's smallest float
    for (const std::uint32_t sign : {0u, this->kSign}) {
      const float signed_middle = sign ? -middle : middle;
      const float away = sign ? -kInf : kInf;
      ASSERT_EQ(this->encode(signed_middle), (code + (code & 1)) | sign) << middle;
      ASSERT_EQ(this->encode(std::nextafter(signed_middle, 0.0f)), code | sign) << middle;
      ASSERT_EQ(this->encode(std::nextafter(signed_middle, away)), (code + 1) | sign) << middle;
    }
  }
}

TYPED_TEST(SignedFormat, FiniteFloatsStayFinite) {
  const float largest = this->decode(this->kMaxFinite);
  for (const float x : {largest, std::nextafter(largest, kInf), largest * 1.001f,
                        std::numeric_limits<float>::max()}) {
    if (std::isinf(x)) continue;
    EXPECT_EQ(this->encode(x), this->kMaxFinite) << x;
    EXPECT_EQ(this->encode(-x), this->kMaxFinite | this->kSign) << x;
  }
}

TYPED_TEST(SignedFormat, TinyFloatsBecomeSignedZero) {
  EXPECT_EQ(this->encode(0.0f), 0u);
  EXPECT_EQ(this->encode(-0.0f), this->kSign);
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(this->encode(tiny), 0u);
  EXPECT_EQ(this->encode(-tiny), this->kSign);
}

TEST(Numerics, InfinityIsKeptIn16BitsAndSaturatesInFewer) {
  EXPECT_EQ(bf16(kInf).bits, 0x7f80);
  EXPECT_EQ(bf16(-kInf).bits, 0xff80);
  EXPECT_EQ(f16(kInf).bits, 0x7c00);
  EXPECT_EQ(f16(-kInf).bits, 0xfc00);
  EXPECT_EQ(e4m3(kInf).bits, 0x7e);
  EXPECT_EQ(e4m3(-kInf).bits, 0xfe);
  EXPECT_EQ(e5m2(kInf).bits, 0x7b);
  EXPECT_EQ(e5m2(-kInf).bits, 0xfb);
  EXPECT_EQ(e2m1(kInf).bits, 0x7);
  EXPECT_EQ(e2m1(-kInf).bits, 0xf);
  EXPECT_EQ(ue8m0(kInf).bits, 0xfe);
}

TEST(Numerics, NanRules) {
  const float signalling = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(signalling))));
  EXPECT_TRUE(std::isnan(static_cast<float>(f16(signalling))));
  EXPECT_EQ(bf16(signalling).bits & 0x40, 0x40) << "quiet";
  EXPECT_EQ(f16(signalling).bits & 0x200, 0x200) << "quiet";
  EXPECT_EQ(bf16(-kNan).bits, 0xffc0);
  EXPECT_EQ(f16(-kNan).bits, 0xfe00);
  EXPECT_EQ(e4m3(-kNan).bits, 0xff);
  EXPECT_EQ(e5m2(-kNan).bits, 0xff);
  EXPECT_EQ(e2m1(kNan).bits, 0x7);
  EXPECT_EQ(e2m1(-kNan).bits, 0x7);
  EXPECT_EQ(ue8m0(kNan).bits, 0xff);
  EXPECT_EQ(ue8m0(-1.0f).bits, 0xff);
  EXPECT_EQ(ue8m0::round_up(-1.0f).bits, 0xff);
}

TEST(Numerics, NanAndInfinityCodes) {
  for (const std::uint32_t code : {0x7fu, 0xffu}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(e4m3::from_bits(static_cast<std::uint8_t>(code)))));
  }
  for (const std::uint32_t code : {0x7du, 0x7eu, 0x7fu, 0xfdu, 0xfeu, 0xffu}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(e5m2::from_bits(static_cast<std::uint8_t>(code)))));
  }
  EXPECT_EQ(static_cast<float>(e5m2::from_bits(0x7c)), kInf);
  EXPECT_EQ(static_cast<float>(e5m2::from_bits(0xfc)), -kInf);
  for (std::uint32_t code = 0; code < 0x10000u; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float half = static_cast<float>(f16::from_bits(bits));
    const float brain = static_cast<float>(bf16::from_bits(bits));
    ASSERT_EQ(std::isnan(half), (code & 0x7fffu) > 0x7c00u) << code;
    ASSERT_EQ(std::isnan(brain), (code & 0x7fffu) > 0x7f80u) << code;
    ASSERT_EQ(std::isinf(half), (code & 0x7fffu) == 0x7c00u) << code;
    ASSERT_EQ(std::isinf(brain), (code & 0x7fffu) == 0x7f80u) << code;
  }
}

// Every bf16 value lands within half a step of itself.
TEST(Numerics, EveryBf16ValueGoesToItsNearestE4m3) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float x = static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(bits)));
    if (std::isnan(x)) continue;
    const float got = static_cast<float>(e4m3(x));
    ASSERT_EQ(std::signbit(got), std::signbit(x)) << x;
    const double magnitude = std::fmin(std::fabs(x), e4m3::kMax);
    const double step = std::fmax(std::exp2(std::floor(std::log2(magnitude)) - 3), std::exp2(-9));
    ASSERT_LE(std::fabs(std::fabs(got) - magnitude), step / 2) << x;
  }
}

TEST(Ue8m0, EveryCodeComesBack) {
  for (int code = 0; code < 255; ++code) {
    const float value = static_cast<float>(ue8m0::from_bits(static_cast<std::uint8_t>(code)));
    ASSERT_EQ(value, std::ldexp(1.0f, code - 127));
    ASSERT_EQ(ue8m0(value).bits, code);
    ASSERT_EQ(ue8m0::round_up(value).bits, code);
  }
  EXPECT_TRUE(std::isnan(static_cast<float>(ue8m0::from_bits(0xff))));
}

TEST(Ue8m0, NearestHasTiesGoUp) {
  for (int code = 0; code < 254; ++code) {
    const float middle = std::ldexp(1.5f, code - 127);
    ASSERT_EQ(ue8m0(middle).bits, code + 1);
    ASSERT_EQ(ue8m0(std::nextafter(middle, 0.0f)).bits, code);
    ASSERT_EQ(ue8m0(std::nextafter(middle, kInf)).bits, code + 1);
  }
  EXPECT_EQ(ue8m0(0.0f).bits, 0);
  EXPECT_EQ(ue8m0(-0.0f).bits, 0);
  EXPECT_EQ(ue8m0(std::numeric_limits<float>::max()).bits, 0xfe) << "saturates";
}

TEST(Ue8m0, RoundUpNeverLiesBelow) {
  for (int code = 0; code < 254; ++code) {
    const float power = std::ldexp(1.0f, code - 127);
    ASSERT_EQ(ue8m0::round_up(std::nextafter(power, kInf)).bits, code + 1);
    ASSERT_EQ(ue8m0::round_up(std::nextafter(power, 0.0f)).bits, code);
  }
  EXPECT_EQ(ue8m0::round_up(0.0f).bits, 0);
  EXPECT_EQ(ue8m0::round_up(-0.0f).bits, 0);
  EXPECT_EQ(ue8m0::round_up(std::numeric_limits<float>::max()).bits, 0xfe) << "saturates";
}

}  // namespace
}  // namespace sotto

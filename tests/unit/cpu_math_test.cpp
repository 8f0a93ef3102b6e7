// The cpu backend's vector arithmetic, on every target, against scalar definitions.
#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "../tests/unit/cpu_math_test.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../tests/unit/simd_targets.h"
#include "cpu/math-inl.h"
#include "sotto/numerics.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

// out[i] = f(in[i]), in place; the size is a multiple of 16.
template <class F>
void map(std::vector<float>& x, F&& f) {
  const F32 d;
  for (std::size_t i = 0; i < x.size(); i += hn::Lanes(d)) {
    hn::StoreU(f(hn::LoadU(d, x.data() + i)), d, x.data() + i);
  }
}

void Exp2Exact(std::vector<float>& x) {
  map(x, [](Vec v) { return exp2_negative<6, 0>(v); });
}
void Exp2ForE4m3(std::vector<float>& x) {
  map(x, [](Vec v) { return exp2_negative<4, 8>(v); });
}
void Tanh(std::vector<float>& x) {
  map(x, [](Vec v) { return tanh(v); });
}
void NearestE4m3(std::vector<float>& x) {
  map(x, [](Vec v) { return nearest_e4m3(v); });
}
void Clamp(std::vector<float>& x) {
  map(x, [](Vec v) { return clamp(v, hn::Set(F32(), 2.0f)); });
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {
namespace {

HWY_EXPORT(Exp2Exact);
HWY_EXPORT(Exp2ForE4m3);
HWY_EXPORT(Tanh);
HWY_EXPORT(NearestE4m3);
HWY_EXPORT(Clamp);

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> padded(std::vector<float> x) {
  while (x.size() % 16 != 0) x.push_back(x.back());
  return x;
}

std::vector<float> spread(float low, float high, int count) {
  std::vector<float> x;
  for (int i = 0; i < count; ++i) {
    x.push_back(low + (high - low) * static_cast<float>(i) / static_cast<float>(count - 1));
  }
  return padded(x);
}

template <class F>
double worst_relative_error(const std::vector<float>& x, const std::vector<float>& y, F&& exact) {
  double worst = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = exact(static_cast<double>(x[i]));
    if (expected != 0.0) worst = std::max(worst, std::fabs(y[i] / expected - 1.0));
  }
  return worst;
}

// A NaN whose payload would do harm if it were taken for an exponent.
std::vector<float> nans() {
  return {kNaN, -kNaN, std::bit_cast<float>(0x7f800001u), std::bit_cast<float>(0xff8001ffu)};
}

TEST(CpuMath, Exp2IsAccurate) {
  test::for_each_target([] {
    const std::vector<float> x = spread(-126.0f, 0.0f, 200000);
    std::vector<float> y = x;
    HWY_DYNAMIC_DISPATCH(Exp2Exact)(y);
    EXPECT_LT(worst_relative_error(x, y, [](double v) { return std::exp2(v); }), 1.5e-7);
    y = x;
    HWY_DYNAMIC_DISPATCH(Exp2ForE4m3)(y);
    EXPECT_LT(worst_relative_error(x, y, [](double v) { return std::exp2(v + 8); }), 4e-6);
  });
}

TEST(CpuMath, Exp2OfSpecialNumbers) {
  test::for_each_target([] {
    std::vector<float> y = padded({0.0f, -1.0f, -126.0f, -126.5f, -1000.0f, -3e38f, -kInf});
    HWY_DYNAMIC_DISPATCH(Exp2Exact)(y);
    EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 7),
              (std::vector<float>{1.0f, 0.5f, 0x1p-126f, 0.0f, 0.0f, 0.0f, 0.0f}));
    y = padded({0.0f, -8.0f, -kInf});
    HWY_DYNAMIC_DISPATCH(Exp2ForE4m3)(y);
    EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 3),
              (std::vector<float>{256.0f, 1.0f, 0.0f}));
    for (auto* f : {&HWY_DYNAMIC_DISPATCH(Exp2Exact), &HWY_DYNAMIC_DISPATCH(Exp2ForE4m3)}) {
      y = padded(nans());
      (*f)(y);
      for (float v : y) EXPECT_TRUE(std::isnan(v));
    }
  });
}

TEST(CpuMath, TanhIsAccurateNearZeroToo) {
  test::for_each_target([] {
    for (float range : {1e-6f, 1e-2f, 1.0f, 10.0f, 50.0f}) {
      const std::vector<float> x = spread(-range, range, 50000);
      std::vector<float> y = x;
      HWY_DYNAMIC_DISPATCH(Tanh)(y);
      EXPECT_LT(worst_relative_error(x, y, [](double v) { return std::tanh(v); }), 4e-7) << range;
    }
    std::vector<float> y = padded({0.0f, -0.0f, kInf, -kInf, 3e38f});
    HWY_DYNAMIC_DISPATCH(Tanh)(y);
    EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 5),
              (std::vector<float>{0.0f, -0.0f, 1.0f, -1.0f, 1.0f}));
    y = padded(nans());
    HWY_DYNAMIC_DISPATCH(Tanh)(y);
    for (float v : y) EXPECT_TRUE(std::isnan(v));
  });
}

TEST(CpuMath, ClampKeepsNaN) {
  test::for_each_target([] {
    std::vector<float> y = padded({-kInf, -2.5f, -2.0f, 0.5f, 2.0f, 3.0f, kInf});
    HWY_DYNAMIC_DISPATCH(Clamp)(y);
    EXPECT_EQ(std::vector<float>(y.begin(), y.begin() + 7),
              (std::vector<float>{-2.0f, -2.0f, -2.0f, 0.5f, 2.0f, 2.0f, 2.0f}));
    y = padded(nans());
    HWY_DYNAMIC_DISPATCH(Clamp)(y);
    for (float v : y) EXPECT_TRUE(std::isnan(v));
  });
}

// Every e4m3 number in [0, 448], every midpoint of two, the floats around these, and a sample of
// all floats.
TEST(CpuMath, NearestE4m3IsTheScalarRounding) {
  std::vector<float> probes;
  for (std::uint8_t code = 0; code <= 0x7e; ++code) {
    const float number = static_cast<float>(e4m3::from_bits(code));
    const float below = code == 0 ? 0.0f : static_cast<float>(e4m3::from_bits(code - 1));
    for (float x : {number, (number + below) / 2}) {
      for (float y : {x, std::nextafter(x, 0.0f), std::nextafter(x, 448.0f)}) probes.push_back(y);
    }
  }
  const std::uint32_t largest = std::bit_cast<std::uint32_t>(448.0f);
  for (std::uint32_t bits = 0; bits <= largest; bits += 997) {
    probes.push_back(std::bit_cast<float>(bits));
  }
  probes = padded(probes);
  test::for_each_target([&] {
    std::vector<float> rounded = probes;
    HWY_DYNAMIC_DISPATCH(NearestE4m3)(rounded);
    for (std::size_t i = 0; i < probes.size(); ++i) {
      ASSERT_EQ(rounded[i], static_cast<float>(e4m3(probes[i]))) << probes[i];
    }
  });
}

}  // namespace
}  // namespace sotto::cpu
#endif  // HWY_ONCE

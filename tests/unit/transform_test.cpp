// The steps of a row in the cpu backend's vectors against scalar definitions.
#include "cpu/transform.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "core/scaling.h"
#include "host_tensor.h"
#include "reference/quantize.h"
#include "simd_targets.h"

namespace sotto {
namespace {

using test::for_each_target;
using test::HostTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

std::vector<float> transformed(const HostTensor& x, const cpu::RopeRow& rope, bool hadamard,
                               float descale = 1.0f) {
  std::vector<float> row(static_cast<std::size_t>(x.numel()));
  const Tensor& view = x;
  cpu::transform_row({view.dtype, view.at(0), descale, rope, hadamard}, x.numel(), row.data());
  return row;
}

// Every code of a format, widened in vectors, gives what the scalar conversion gives.
template <class T, class Code>
void expect_all_codes_widen(Dtype dtype) {
  constexpr std::int64_t kCodes = std::int64_t{1} << (8 * sizeof(Code));
  HostTensor x(dtype, {kCodes});
  const Tensor& view = x;
  for (std::int64_t i = 0; i < kCodes; ++i) {
    const auto code = static_cast<Code>(i);
    std::memcpy(view.at(i), &code, sizeof(code));
  }
  const std::vector<float> row = transformed(x, {}, false);
  for (std::int64_t i = 0; i < kCodes; ++i) {
    const float expected = static_cast<float>(std::bit_cast<T>(static_cast<Code>(i)));
    const float seen = row[static_cast<std::size_t>(i)];
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(seen)) << i;
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(seen), std::bit_cast<std::uint32_t>(expected)) << i;
    }
  }
}

TEST(TransformRow, WidensEveryCode) {
  for_each_target([] {
    expect_all_codes_widen<bf16, std::uint16_t>(Dtype::bf16);
    expect_all_codes_widen<f16, std::uint16_t>(Dtype::f16);
    expect_all_codes_widen<e4m3, std::uint8_t>(Dtype::e4m3);
    expect_all_codes_widen<std::int8_t, std::uint8_t>(Dtype::i8);
  });
}

TEST(TransformRow, AppliesTheScaleOfQuantisedData) {
  const HostTensor x(Dtype::e4m3, {3}, {1.0f, -448.0f, 0.5f});
  EXPECT_EQ(transformed(x, {}, false, 0.25f), (std::vector<float>{0.25f, -112.0f, 0.125f}));
}

// Floats around every rounding boundary of the small formats, and some of everything else.
std::vector<float> rounding_probes() {
  std::vector<float> probes = {0.0f, -0.0f, kInf, -kInf, kNaN, -kNaN, kLargest, -kLargest};
  for (int i = 0; i < 1 << 16; ++i) {
    // The halves of a bf16's and of an f16's neighbours are among these and their neighbours.
    for (const float x : {static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(i))),
                          static_cast<float>(f16::from_bits(static_cast<std::uint16_t>(i)))}) {
      for (std::uint32_t offset :
           {0u, 1u, 0xffffffffu, 0x1000u, 0xfffu, 0x1001u, 0x8000u, 0x7fffu, 0x8001u}) {
        probes.push_back(std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) + offset));
      }
    }
  }
  return probes;
}

template <class T>
void expect_rounds_like_scalar(Dtype dtype, const std::vector<float>& probes, T (*round)(float)) {
  HostTensor out(dtype, {static_cast<std::int64_t>(probes.size())});
  const Tensor& view = out;
  cpu::store_row(probes.data(), out.numel(), {dtype, view.at(0)});
  const T* seen = reinterpret_cast<const T*>(view.at(0));
  for (std::size_t i = 0; i < probes.size(); ++i) {
    const T expected = round(probes[i]);
    ASSERT_EQ(std::memcmp(&seen[i], &expected, sizeof(T)), 0)
        << dtype_name(dtype) << " of " << probes[i] << " is " << static_cast<float>(seen[i])
        << ", expected " << static_cast<float>(expected);
  }
  EXPECT_TRUE(out.end_is_untouched());
}

TEST(StoreRow, RoundsLikeTheScalarFormats) {
  const std::vector<float> probes = rounding_probes();
  std::vector<float> numbers;  // which NaN a NaN of 32 bits becomes is open
  std::copy_if(probes.begin(), probes.end(), std::back_inserter(numbers),
               [](float x) { return !std::isnan(x); });
  for_each_target([&] {
    expect_rounds_like_scalar<float>(Dtype::f32, numbers, [](float x) { return x; });
    expect_rounds_like_scalar<bf16>(Dtype::bf16, probes, [](float x) { return bf16(x); });
    expect_rounds_like_scalar<f16>(Dtype::f16, probes, [](float x) { return f16(x); });
    expect_rounds_like_scalar<e4m3>(Dtype::e4m3, probes, [](float x) { return e4m3(x); });
    expect_rounds_like_scalar<std::int8_t>(Dtype::i8, probes, core::int8_from);
  });
}

TEST(StoreRow, KeepsTheRoundingErrorInLo) {
  for_each_target([&] {
    std::vector<float> row = {1.0f, 1.06f, 500.0f, -kInf, kNaN, 0.001f};
    std::vector<e4m3> hi(row.size()), lo(row.size());
    cpu::store_row(row.data(), 6,
                   {Dtype::e4m3, reinterpret_cast<std::byte*>(hi.data()), lo.data()});
    EXPECT_EQ(static_cast<float>(lo[0]), 0.0f);
    EXPECT_EQ(static_cast<float>(hi[1]), 1.0f);
    EXPECT_NEAR(static_cast<float>(lo[1]), 0.06f, 0.06f / 16);
    EXPECT_EQ(static_cast<float>(hi[2]), 448.0f);  // saturated: nothing left over
    EXPECT_EQ(static_cast<float>(lo[2]), 0.0f);
    EXPECT_EQ(static_cast<float>(hi[3]), -448.0f);
    EXPECT_EQ(static_cast<float>(lo[3]), 0.0f);
    EXPECT_TRUE(std::isnan(static_cast<float>(hi[4])));
    EXPECT_NEAR(static_cast<float>(hi[5]) + static_cast<float>(lo[5]), 0.001f, 0.001f);
  });
}

class HadamardRow : public testing::TestWithParam<std::int64_t> {};

TEST_P(HadamardRow, IsTheMatrixOfItsDefinition) {
  for_each_target([&] {
    const std::int64_t dim = GetParam();
    const std::int64_t n = std::min<std::int64_t>(256, dim & -dim);
    std::mt19937 random(7);
    const std::vector<float> x = HostTensor::normal(Dtype::f32, {dim}, random).values();
    std::vector<float> fast = x;
    cpu::hadamard_row(fast.data(), dim);
    std::vector<double> slow(x.begin(), x.end());
    reference::hadamard_row(slow.data(), dim);
    for (std::int64_t i = 0; i < dim; ++i) {
      double expected = 0.0;
      for (std::int64_t j = i / n * n; j < i / n * n + n; ++j) {
        const int sign = __builtin_parityll(static_cast<unsigned long long>((i % n) & (j % n)));
        expected += (sign != 0 ? -1.0 : 1.0) * static_cast<double>(x[static_cast<std::size_t>(j)]);
      }
      expected /= std::sqrt(static_cast<double>(n));
      EXPECT_NEAR(fast[static_cast<std::size_t>(i)], expected, 2e-6) << i;
      EXPECT_NEAR(slow[static_cast<std::size_t>(i)], expected, 1e-12) << i;
    }
  });
}

TEST_P(HadamardRow, IsItsOwnInverseAndKeepsTheNorm) {
  const std::int64_t dim = GetParam();
  std::mt19937 random(8);
  const std::vector<float> x = HostTensor::normal(Dtype::f32, {dim}, random).values();
  std::vector<float> y = x;
  cpu::hadamard_row(y.data(), dim);
  double before = 0.0, after = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    before += static_cast<double>(x[i]) * x[i];
    after += static_cast<double>(y[i]) * y[i];
  }
  EXPECT_NEAR(after / before, 1.0, 1e-6);
  cpu::hadamard_row(y.data(), dim);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], x[i], 3e-6) << i;
}

INSTANTIATE_TEST_SUITE_P(HeadSizes, HadamardRow,
                         testing::Values(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128,
                                         192, 224, 256, 320, 512));

TEST(HadamardRowRange, IsExactOnIntegersWhereTheRootIsAnInteger) {
  for_each_target([&] {
    for (std::int64_t dim : {4, 12, 16, 48, 64, 80, 192, 256, 512}) {
      std::vector<float> x(static_cast<std::size_t>(dim));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) - 50.0f;
      std::vector<double> exact(x.begin(), x.end());
      reference::hadamard_row(exact.data(), dim);
      cpu::hadamard_row(x.data(), dim);
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(x[i], exact[i]) << dim << " " << i;
    }
  });
}

TEST(HadamardRowRange, HugeNumbersStayFinite) {
  for_each_target([&] {
    for (std::int64_t dim : {16, 24, 96, 256}) {
      std::vector<float> x(static_cast<std::size_t>(dim), 3e38f);
      for (std::size_t i = 0; i < x.size(); i += 3) x[i] = -3e38f;
      std::vector<double> exact(x.begin(), x.end());
      reference::hadamard_row(exact.data(), dim);
      cpu::hadamard_row(x.data(), dim);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = std::clamp<double>(exact[i], -kLargest, kLargest);
        EXPECT_TRUE(std::isfinite(x[i])) << dim << " " << i;
        EXPECT_NEAR(x[i] / 1e38, expected / 1e38, 1e-5) << dim << " " << i;
      }
    }
  });
}

TEST(HadamardRowRange, TinyNumbersKeepTheirBits) {
  std::vector<float> x(16, 0.0f);
  x[0] = 0x1p-140f;
  cpu::hadamard_row(x.data(), 16);
  for (float y : x) EXPECT_EQ(y, 0x1p-142f);
}

struct RopeCase {
  std::int64_t dim, pairs;
  bool interleaved, per_channel;
};

class RopeRow : public testing::TestWithParam<RopeCase> {};

TEST_P(RopeRow, TurnsPairsAsDefined) {
  for_each_target([&] {
    const RopeCase c = GetParam();
    std::mt19937 random(9);
    const HostTensor x = HostTensor::normal(Dtype::f32, {c.dim}, random);
    const std::int64_t width = c.per_channel ? 2 * c.pairs : c.pairs;
    const std::vector<float> cos = HostTensor::normal(Dtype::f32, {width}, random).values();
    const std::vector<float> sin = HostTensor::normal(Dtype::f32, {width}, random).values();
    const std::vector<float> y =
        transformed(x, {cos.data(), sin.data(), c.pairs, c.interleaved, c.per_channel}, false);
    for (std::int64_t pair = 0; pair < c.pairs; ++pair) {
      const auto i0 = static_cast<std::size_t>(c.interleaved ? 2 * pair : pair);
      const auto i1 = c.interleaved ? i0 + 1 : i0 + static_cast<std::size_t>(c.pairs);
      const std::size_t f0 = c.per_channel ? i0 : static_cast<std::size_t>(pair);
      const std::size_t f1 = c.per_channel ? i1 : f0;
      const double x0 = x.get(static_cast<std::int64_t>(i0));
      const double x1 = x.get(static_cast<std::int64_t>(i1));
      EXPECT_NEAR(y[i0], x0 * cos[f0] - x1 * sin[f0], 2e-6) << pair;
      EXPECT_NEAR(y[i1], x1 * cos[f1] + x0 * sin[f1], 2e-6) << pair;
    }
    for (std::int64_t i = 2 * c.pairs; i < c.dim; ++i) {
      EXPECT_EQ(y[static_cast<std::size_t>(i)], x.get(i)) << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Styles, RopeRow,
    testing::Values(RopeCase{128, 64, false, false}, RopeCase{128, 64, false, true},
                    RopeCase{128, 64, true, false}, RopeCase{128, 64, true, true},
                    RopeCase{64, 16, false, false}, RopeCase{64, 16, true, true},
                    RopeCase{48, 9, false, true}, RopeCase{48, 9, true, false},
                    RopeCase{2, 1, true, false}, RopeCase{16, 8, false, false}));

TEST(RopeRow, HugeNumbersStayFinite) {
  for_each_target([&] {
    const HostTensor x(Dtype::f32, {4}, {3.4e38f, -3.4e38f, 3.4e38f, 3.4e38f});
    const std::vector<float> cos(2, 0.70710678f), sin(2, 0.70710678f);
    const std::vector<float> y = transformed(x, {cos.data(), sin.data(), 2}, false);
    EXPECT_LT(std::fabs(y[0]), 1e32f);
    EXPECT_EQ(y[1], -kLargest);
    EXPECT_EQ(y[2], kLargest);
    for (float value : transformed(x, {cos.data(), sin.data(), 2}, true)) {
      EXPECT_TRUE(std::isfinite(value));
    }
  });
}

TEST(RopeRow, NanStaysInItsPair) {
  for_each_target([&] {
    HostTensor x(Dtype::f32, {16}, std::vector<float>(16, 1.0f));
    x.set(3, kNaN);
    const std::vector<float> cos(8, 0.6f), sin(8, 0.8f);
    const std::vector<float> y = transformed(x, {cos.data(), sin.data(), 8}, false);
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(y[i]), i == 3 || i == 11) << i;
  });
}

TEST(CenterRow, SubtractsAndFindsTheLargestFiniteMagnitude) {
  for_each_target([&] {
    std::vector<float> row = {1.0f, -7.0f, kNaN, kInf, 3e38f, 2.0f};
    const std::vector<float> mean = {1.0f, 1.0f, 0.0f, 0.0f, -3e38f, 0.5f};
    EXPECT_EQ(cpu::center_row(row.data(), nullptr, 4), 7.0f);
    EXPECT_EQ(cpu::center_row(row.data(), mean.data(), 6), kLargest);
    EXPECT_EQ(row[0], 0.0f);
    EXPECT_EQ(row[1], -8.0f);
    EXPECT_TRUE(std::isnan(row[2]));
    EXPECT_EQ(row[3], kInf);
    EXPECT_EQ(row[4], kLargest);
    EXPECT_EQ(row[5], 1.5f);
  });
}

TEST(DotRow, DoesNotTurnOverflowIntoNan) {
  for_each_target([&] {
    const std::vector<float> a = {3e38f, 3e38f, 1.0f}, b = {10.0f, -10.0f, 2.0f};
    EXPECT_EQ(cpu::dot_row(a.data(), b.data(), 3, 1.0f), 2.0f);
    EXPECT_EQ(cpu::dot_row(a.data(), a.data(), 2, 1.0f), kLargest);
    std::vector<float> ones(37, 1.0f);
    EXPECT_EQ(cpu::dot_row(ones.data(), ones.data(), 37, 0.5f), 18.5f);
    EXPECT_EQ(cpu::dot_row(a.data(), ones.data(), 1, -4.0f), -kLargest);
  });
}

TEST(AccumulateRow, SkipsWhatIsNotFinite) {
  for_each_target([&] {
    std::vector<float> row(19, 2.0f);
    row[0] = kNaN;
    row[17] = -kInf;
    std::vector<double> sum(19), count(19);
    for (int i = 0; i < 3; ++i) cpu::accumulate_row(row.data(), 19, sum.data(), count.data());
    for (std::size_t i = 0; i < 19; ++i) {
      const bool finite = i != 0 && i != 17;
      EXPECT_EQ(sum[i], finite ? 6.0 : 0.0) << i;
      EXPECT_EQ(count[i], finite ? 3.0 : 0.0) << i;
    }
  });
}

}  // namespace
}  // namespace sotto

// The steps of a row in the cpu backend's vectors against scalar definitions.
#include "cpu/transform.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>

#include "core/scaling.h"
#include "cpu/reduce_rows.h"
#include "cpu/round_rows.h"
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

struct Ranges {
  std::vector<float> amax;
  std::unique_ptr<bool[]> finite;

  explicit Ranges(std::int64_t rows)
      : amax(static_cast<std::size_t>(rows)), finite(new bool[static_cast<std::size_t>(rows)]) {}
  operator cpu::RowRanges() { return {amax.data(), finite.get()}; }
};

// x as rows of `dim`, one behind the other.
cpu::RowGrid grid_of(const HostTensor& x, std::int64_t dim) {
  const Tensor& view = x;
  const std::int64_t bytes = dim * dtype_size(view.dtype);
  return {view.dtype, view.at(0), bytes, bytes};
}

std::vector<float> transformed(const HostTensor& x, std::int64_t dim,
                               const cpu::RowTransform& transform) {
  std::vector<float> rows(static_cast<std::size_t>(x.numel()));
  const cpu::RowCounts counts{x.numel() / dim, 1, dim};
  cpu::transform_rows(grid_of(x, dim), counts, transform, rows.data(), Ranges(counts.tokens));
  return rows;
}

std::vector<float> transformed(const HostTensor& x, const cpu::RopeRows& rope) {
  return transformed(x, x.numel(), {.rope = rope});
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
  const std::vector<float> row = transformed(x, std::min<std::int64_t>(64, kCodes), {});
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
  const float descale = 0.25f;
  EXPECT_EQ(transformed(x, 3, {.descale = &descale}), (std::vector<float>{0.25f, -112.0f, 0.125f}));
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
void expect_rounds_like_scalar(Dtype dtype, const std::vector<float>& probes, std::int64_t dim,
                               T (*round)(float)) {
  const auto n = static_cast<std::int64_t>(probes.size()) / dim * dim;
  const HostTensor x(Dtype::f32, {n}, std::vector<float>(probes.begin(), probes.begin() + n));
  HostTensor out(dtype, {n});
  const cpu::RowCounts counts{n / dim, 1, dim};
  Ranges ranges(counts.tokens);
  cpu::measure_rows(grid_of(x, dim), counts, ranges);
  cpu::round_rows(grid_of(x, dim), counts, ranges, nullptr, grid_of(out, dim));
  const Tensor& view = out;
  const T* seen = reinterpret_cast<const T*>(view.at(0));
  for (std::int64_t i = 0; i < n; ++i) {
    const float probe = probes[static_cast<std::size_t>(i)];
    const T expected = round(probe);
    ASSERT_EQ(std::memcmp(&seen[i], &expected, sizeof(T)), 0)
        << dtype_name(dtype) << " of " << probe << " is " << static_cast<float>(seen[i])
        << ", expected " << static_cast<float>(expected);
  }
  EXPECT_TRUE(out.end_is_untouched());
}

TEST(RoundRows, RoundsLikeTheScalarFormats) {
  std::vector<float> probes = rounding_probes();
  // In order, so that most rows hold numbers that a format can represent and the others do not.
  std::sort(probes.begin(), probes.end(), [](float a, float b) {
    return (std::bit_cast<std::uint32_t>(a) & 0x7fffffffu) <
           (std::bit_cast<std::uint32_t>(b) & 0x7fffffffu);
  });
  std::vector<float> numbers;  // which NaN a NaN of 32 bits becomes is open
  std::copy_if(probes.begin(), probes.end(), std::back_inserter(numbers),
               [](float x) { return !std::isnan(x); });
  for_each_target([&] {
    for (const std::int64_t dim : {128, 19}) {
      expect_rounds_like_scalar<float>(Dtype::f32, numbers, dim, [](float x) { return x; });
      expect_rounds_like_scalar<bf16>(Dtype::bf16, probes, dim, [](float x) { return bf16(x); });
      expect_rounds_like_scalar<f16>(Dtype::f16, probes, dim, [](float x) { return f16(x); });
      expect_rounds_like_scalar<e4m3>(Dtype::e4m3, probes, dim, [](float x) { return e4m3(x); });
      expect_rounds_like_scalar<std::int8_t>(Dtype::i8, probes, dim, core::int8_from);
    }
  });
}

// Numbers in one row with others that saturate, are Inf or NaN.
TEST(RoundRows, RoundsMixedRowsLikeTheScalarFormats) {
  const std::vector<float> probes = rounding_probes();
  const auto n = static_cast<std::int64_t>(probes.size());
  for_each_target([&] {
    expect_rounds_like_scalar<bf16>(Dtype::bf16, probes, n, [](float x) { return bf16(x); });
    expect_rounds_like_scalar<f16>(Dtype::f16, probes, n, [](float x) { return f16(x); });
    expect_rounds_like_scalar<e4m3>(Dtype::e4m3, probes, n, [](float x) { return e4m3(x); });
    expect_rounds_like_scalar<std::int8_t>(Dtype::i8, probes, n, core::int8_from);
  });
}

// Quotients at, just above and just below the middle between two codes, for divisors of all sizes.
TEST(RoundRows, DividesExactly) {
  std::mt19937 random(11);
  std::vector<float> x, descale;
  const std::int64_t dim = 96;
  for (int row = 0; row < 4000; ++row) {
    const float divisor = std::ldexp(1.0f + static_cast<float>(random() % (1u << 23)) * 0x1p-23f,
                                     static_cast<int>(random() % 120) - 60);
    descale.push_back(divisor);
    for (std::int64_t i = 0; i < dim; ++i) {
      const int middle = static_cast<int>(random() % 127);
      const double quotient = (middle + 0.5) * (1.0 + 0x1p-24 * (random() % 5 - 2.0));
      x.push_back(static_cast<float>(quotient * divisor));
    }
  }
  const auto rows = static_cast<std::int64_t>(descale.size());
  const HostTensor in(Dtype::f32, {rows, dim}, x);
  const cpu::RowCounts counts{rows, 1, dim};
  Ranges ranges(rows);
  cpu::measure_rows(grid_of(in, dim), counts, ranges);
  for_each_target([&] {
    HostTensor codes(Dtype::i8, {rows, dim}), hi(Dtype::e4m3, {rows, dim}),
        lo(Dtype::e4m3, {rows, dim});
    cpu::round_rows(grid_of(in, dim), counts, ranges, descale.data(), grid_of(codes, dim));
    cpu::round_rows(grid_of(in, dim), counts, ranges, descale.data(), grid_of(hi, dim),
                    grid_of(lo, dim));
    for (std::int64_t i = 0; i < in.numel(); ++i) {
      const float quotient =
          x[static_cast<std::size_t>(i)] / descale[static_cast<std::size_t>(i / dim)];
      ASSERT_EQ(codes.get(i), static_cast<float>(core::int8_from(quotient))) << quotient;
      const auto expected = static_cast<float>(e4m3(quotient));
      ASSERT_EQ(hi.get(i), expected) << quotient;
      ASSERT_EQ(lo.get(i), static_cast<float>(e4m3(quotient - expected))) << quotient;
    }
  });
}

TEST(RoundRows, KeepsTheRoundingErrorInLo) {
  for_each_target([&] {
    const HostTensor row(Dtype::f32, {6}, {1.0f, 1.06f, 500.0f, -kInf, kNaN, 0.001f});
    HostTensor hi(Dtype::e4m3, {6}), lo(Dtype::e4m3, {6});
    Ranges ranges(1);
    cpu::measure_rows(grid_of(row, 6), {1, 1, 6}, ranges);
    EXPECT_EQ(ranges.amax[0], 500.0f);
    EXPECT_FALSE(ranges.finite[0]);
    cpu::round_rows(grid_of(row, 6), {1, 1, 6}, ranges, nullptr, grid_of(hi, 6), grid_of(lo, 6));
    EXPECT_EQ(lo.get(0), 0.0f);
    EXPECT_EQ(hi.get(1), 1.0f);
    EXPECT_NEAR(lo.get(1), 0.06f, 0.06f / 16);
    EXPECT_EQ(hi.get(2), 448.0f);  // saturated: nothing left over
    EXPECT_EQ(lo.get(2), 0.0f);
    EXPECT_EQ(hi.get(3), -448.0f);
    EXPECT_EQ(lo.get(3), 0.0f);
    EXPECT_TRUE(std::isnan(hi.get(4)));
    EXPECT_NEAR(hi.get(5) + lo.get(5), 0.001f, 0.001f);
  });
}

TEST(MeasureRows, FindsTheLargestFiniteMagnitude) {
  for_each_target([&] {
    for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (const std::int64_t dim : {1, 7, 16, 80, 128}) {
        HostTensor x(dtype, {3, dim}, std::vector<float>(static_cast<std::size_t>(3 * dim), -2.0f));
        x.set(dim - 1, -5.0f);
        x.set(2 * dim - 1, kNaN);
        x.set(3 * dim - 1, -kInf);
        Ranges ranges(3);
        cpu::measure_rows(grid_of(x, dim), {3, 1, dim}, ranges);
        EXPECT_EQ(ranges.amax[0], 5.0f);
        EXPECT_EQ(ranges.amax[1], dim == 1 ? 0.0f : 2.0f);
        EXPECT_EQ(ranges.amax[2], dim == 1 ? 0.0f : 2.0f);
        EXPECT_TRUE(ranges.finite[0]);
        EXPECT_FALSE(ranges.finite[1]);
        EXPECT_FALSE(ranges.finite[2]);
      }
    }
  });
}

// Rows that fit the registers and those that do not, each step and all together, give the bits of
// the steps one by one; with them the ranges.
TEST(TransformRows, OneByOneAsTogether) {
  std::mt19937 random(12);
  for (const std::int64_t dim : {16, 32, 64, 96, 128, 192, 256}) {
    const std::int64_t tokens = 5, heads = 3;
    const HostTensor x = HostTensor::normal(Dtype::bf16, {tokens, heads, dim}, random);
    const HostTensor cos = HostTensor::normal(Dtype::f32, {tokens, dim}, random);
    const HostTensor sin = HostTensor::normal(Dtype::f32, {tokens, dim}, random);
    const HostTensor mean = HostTensor::normal(Dtype::f32, {heads, dim}, random);
    const auto floats = [](const HostTensor& t) {
      const Tensor& view = t;
      return reinterpret_cast<const float*>(view.at(0));
    };
    const cpu::RowCounts counts{tokens, heads, dim};
    cpu::RowGrid grid = grid_of(x, dim);
    grid.token_stride *= heads;
    for_each_target([&] {
      for (const bool interleaved : {false, true}) {
        cpu::RopeRows rope{floats(cos), floats(sin), dim, dim, 1, 1, dim / 2, interleaved, true};
        std::vector<float> together(static_cast<std::size_t>(x.numel())), steps = together;
        Ranges ranges(counts.rows()), unused(counts.rows());
        const cpu::HeadRows means{floats(mean), dim, 1};
        cpu::transform_rows(grid, counts, {rope, true, means}, together.data(), ranges);
        cpu::transform_rows(grid, counts, {.rope = rope}, steps.data(), unused);
        for (std::int64_t r = 0; r < counts.rows(); ++r) {
          cpu::hadamard_row(steps.data() + r * dim, dim);
        }
        cpu::center_rows(steps.data(), counts, means, unused);
        EXPECT_EQ(together, steps) << dim;
        for (std::int64_t r = 0; r < counts.rows(); ++r) {
          float amax = 0.0f;
          for (std::int64_t i = r * dim; i < (r + 1) * dim; ++i) {
            amax = std::max(amax, std::fabs(together[static_cast<std::size_t>(i)]));
          }
          EXPECT_EQ(ranges.amax[static_cast<std::size_t>(r)], amax);
          EXPECT_TRUE(ranges.finite[static_cast<std::size_t>(r)]);
          EXPECT_EQ(unused.amax[static_cast<std::size_t>(r)], amax);
        }
      }
    });
  }
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

cpu::RopeRows rope_rows(const std::vector<float>& cos, const std::vector<float>& sin,
                        std::int64_t pairs, bool interleaved = false, bool per_channel = false) {
  return {.cos = cos.data(),
          .sin = sin.data(),
          .pairs = pairs,
          .interleaved = interleaved,
          .per_channel = per_channel};
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
        transformed(x, rope_rows(cos, sin, c.pairs, c.interleaved, c.per_channel));
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
    const std::vector<float> y = transformed(x, rope_rows(cos, sin, 2));
    EXPECT_LT(std::fabs(y[0]), 1e32f);
    EXPECT_EQ(y[1], -kLargest);
    EXPECT_EQ(y[2], kLargest);
    for (float value : transformed(x, 4, {rope_rows(cos, sin, 2), true})) {
      EXPECT_TRUE(std::isfinite(value));
    }
  });
}

TEST(RopeRow, NanStaysInItsPair) {
  for_each_target([&] {
    HostTensor x(Dtype::f32, {16}, std::vector<float>(16, 1.0f));
    x.set(3, kNaN);
    const std::vector<float> cos(8, 0.6f), sin(8, 0.8f);
    const std::vector<float> y = transformed(x, rope_rows(cos, sin, 8));
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(y[i]), i == 3 || i == 11) << i;
  });
}

TEST(CenterRows, SubtractsAndFindsTheLargestFiniteMagnitude) {
  const auto center = [](std::vector<float>& row, const float* mean, std::int64_t dim) {
    Ranges ranges(1);
    cpu::center_rows(row.data(), {1, 1, dim}, {mean, 0, 1}, ranges);
    return ranges.amax[0];
  };
  for_each_target([&] {
    std::vector<float> row = {1.0f, -7.0f, kNaN, kInf, 3e38f, 2.0f};
    const std::vector<float> mean = {1.0f, 1.0f, 0.0f, 0.0f, -3e38f, 0.5f};
    EXPECT_EQ(center(row, nullptr, 4), 7.0f);
    EXPECT_EQ(center(row, mean.data(), 6), kLargest);
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

TEST(AccumulateRows, SkipsWhatIsNotFinite) {
  for_each_target([&] {
    HostTensor rows(Dtype::f32, {3, 2, 19}, std::vector<float>(3 * 2 * 19, 2.0f));
    cpu::RowGrid grid = grid_of(rows, 19);
    grid.token_stride *= 2;
    Ranges ranges(6);
    for (const bool finite : {true, false}) {
      if (!finite) {
        for (std::int64_t token = 0; token < 3; ++token) {
          rows.set(token * 2 * 19, kNaN);
          rows.set(token * 2 * 19 + 17, -kInf);
        }
      }
      cpu::measure_rows(grid, {3, 2, 19}, ranges);
      std::vector<double> sum(2 * 19, 1.0), count(2 * 19);
      cpu::accumulate_rows(grid, {3, 2, 19}, ranges, sum.data(), count.data());
      for (std::size_t i = 0; i < 2 * 19; ++i) {
        const bool counts = finite || (i != 0 && i != 17);
        EXPECT_EQ(sum[i], counts ? 7.0 : 1.0) << i;
        EXPECT_EQ(count[i], counts ? 3.0 : 0.0) << i;
      }
    }
  });
}

}  // namespace
}  // namespace sotto

// OutputWriter against the formulas of OutputQuant.
#include "core/output.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "host_tensor.h"

namespace sotto::core {
namespace {

using test::HostTensor;

// Rows of one head each: [1, rows, 1, dim].
struct Written {
  HostTensor out, scale, group_scale;

  Written(Dtype dtype, const std::vector<float>& o, std::int64_t dim, OutputKind kind,
          std::int64_t group, const HostTensor& scale_, const HostTensor& group_scale_)
      : scale(scale_), group_scale(group_scale_) {
    const auto rows = static_cast<std::int64_t>(o.size()) / dim;
    out = HostTensor(dtype, {1, rows, 1, dtype == Dtype::e2m1x2 ? dim / 2 : dim});
    OutputQuant output{.scale = scale, .group_scale = group_scale};
    if (!scale.numel()) output.scale = {};
    if (!group_scale.numel()) output.group_scale = {};
    const OutputWriter writer(out, output, kind, group);
    writer.write_padding();
    for (std::int64_t row = 0; row < rows; ++row) {
      writer.write({}, row, row, 0, dim, o.data() + row * dim);
    }
  }
};

std::vector<float> wave(std::int64_t n, float size) {
  std::vector<float> o;
  for (std::int64_t i = 0; i < n; ++i) {
    o.push_back(size * std::sin(static_cast<float>(i) * 1.7f) * static_cast<float>(1 + i % 5));
  }
  return o;
}

TEST(OutputWriter, RoundsToThePlainDtypes) {
  const std::vector<float> o = wave(64, 3.0f);
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    const Written w(dtype, o, 32, OutputKind::plain, 0, {}, {});
    HostTensor expected(dtype, {64}, o);
    EXPECT_EQ(w.out.values(), expected.values());
  }
}

TEST(OutputWriter, PerTensorDividesAndSaturates) {
  const std::vector<float> o{0.0f, 1.0f, -3.3f, 1000.0f, -1e30f, 1e-9f, 22.4f, 447.0f,
                             0.5f, 2.0f, -2.0f, 3.0f,    4.0f,   5.0f,  6.0f,  7.0f};
  const Written w(Dtype::e4m3, o, 16, OutputKind::fp8, 0, HostTensor(Dtype::f32, {1}, {0.05f}), {});
  for (std::size_t i = 0; i < o.size(); ++i) {
    EXPECT_EQ(w.out.get(static_cast<std::int64_t>(i)), static_cast<float>(e4m3(o[i] / 0.05f)));
  }
  EXPECT_EQ(w.out.get(4), -448.0f);
}

TEST(OutputWriter, GroupsHaveTheScaleOfTheirLargest) {
  std::vector<float> o = wave(256, 3.0f);
  std::fill(o.begin() + 64, o.begin() + 128, 0.0f);
  const Written w(Dtype::e4m3, o, 128, OutputKind::fp8_groups, 64, {},
                  HostTensor(Dtype::f32, {2, 2}));
  for (std::size_t group = 0; group < 4; ++group) {
    float amax = 0;
    for (std::size_t i = 0; i < 64; ++i) amax = std::max(amax, std::fabs(o[group * 64 + i]));
    const float scale = w.group_scale.get(static_cast<std::int64_t>(group));
    EXPECT_FLOAT_EQ(scale, group == 1 ? 1.0f : amax / 448.0f);
    for (std::size_t i = group * 64; i < group * 64 + 64; ++i) {
      EXPECT_EQ(w.out.get(static_cast<std::int64_t>(i)), static_cast<float>(e4m3(o[i] / scale)));
    }
  }
}

TEST(OutputWriter, Ue8m0ScalesAreRoundedUp) {
  for (float largest : {448.0f, 449.0f, 1.0f, 1e-3f, 3e37f, 1e-44f}) {
    std::vector<float> o(64, 0.0f);
    o[7] = -largest;
    HostTensor scales(Dtype::ue8m0, {1, 1});
    const Written w(Dtype::e4m3, o, 64, OutputKind::fp8_groups, 64, {}, scales);
    const int code = static_cast<int>(w.group_scale.bytes()[0]);
    const double scale = std::ldexp(1.0, code - 127);
    EXPECT_GE(scale * 448.0, static_cast<double>(largest));
    EXPECT_TRUE(scale / 2 * 448.0 < static_cast<double>(largest) || code <= 1) << largest;
    if (code > 1) {
      EXPECT_GE(std::fabs(w.out.get(7)), 224.0f) << largest;
    }
  }
}

TEST(OutputWriter, GroupScalesTakeAnyStrides) {
  const std::vector<float> o = wave(3 * 128, 2.0f);
  HostTensor plain(Dtype::f32, {3, 2}), column_major(Dtype::f32, {2, 5});
  const Written rows(Dtype::e4m3, o, 128, OutputKind::fp8_groups, 64, {}, plain);
  HostTensor out(Dtype::e4m3, {1, 3, 1, 128});
  OutputQuant output;
  output.group_scale = Tensor(column_major.view().data, Dtype::f32, {3, 2}, {1, 5});
  const OutputWriter writer(out, output, OutputKind::fp8_groups, 64);
  for (std::int64_t row = 0; row < 3; ++row)
    writer.write({}, row, row, 0, 128, &o[static_cast<std::size_t>(row * 128)]);
  EXPECT_EQ(out.values(), rows.out.values());
  for (std::int64_t row = 0; row < 3; ++row) {
    for (std::int64_t column = 0; column < 2; ++column) {
      EXPECT_EQ(column_major.get(column * 5 + row), rows.group_scale.get(row * 2 + column));
    }
  }
}

TEST(OutputWriter, SwizzleIsABijectionOnto128x4Tiles) {
  const std::int64_t rows = 384, columns = 12;
  std::set<std::int64_t> offsets;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const std::int64_t offset = swizzled_scale_offset(row, column, columns);
      offsets.insert(offset);
      // A tile of 128 rows and 4 columns is 512 bytes; tiles follow one another along a row.
      EXPECT_EQ(offset / 512, row / 128 * (columns / 4) + column / 4);
      // In a tile: 32 lines of 16 bytes, of rows r, r + 32, r + 64, r + 96, 4 columns each.
      EXPECT_EQ(offset % 512 / 16, row % 32);
      EXPECT_EQ(offset % 16 / 4, row % 128 / 32);
      EXPECT_EQ(offset % 4, column % 4);
    }
  }
  EXPECT_EQ(static_cast<std::int64_t>(offsets.size()), rows * columns);
  EXPECT_EQ(*offsets.rbegin(), rows * columns - 1);
  // Three entries worked out by hand.
  EXPECT_EQ(swizzled_scale_offset(0, 5, 8), 513);
  EXPECT_EQ(swizzled_scale_offset(33, 2, 8), 16 + 4 + 2);
  EXPECT_EQ(swizzled_scale_offset(129, 0, 8), 2 * 512 + 16);
}

TEST(OutputWriter, Nvfp4) {
  std::vector<float> o = wave(2 * 48, 0.7f);
  std::fill(o.begin() + 16, o.begin() + 32, 0.0f);
  const float g = 300.0f;
  const Written w(Dtype::e2m1x2, o, 48, OutputKind::nvfp4, 16, HostTensor(Dtype::f32, {1}, {g}),
                  HostTensor(Dtype::e4m3, {128, 4}));
  for (std::int64_t row = 0; row < 128; ++row) {
    for (std::int64_t column = 0; column < 4; ++column) {
      const float scale = w.group_scale.get(row % 32 * 16 + row / 32 * 4 + column);
      if (row >= 2 || column >= 3) {
        EXPECT_EQ(scale, 0.0f) << "padding";
        continue;
      }
      const float* x = o.data() + row * 48 + column * 16;
      float amax = 0;
      for (int i = 0; i < 16; ++i) amax = std::max(amax, std::fabs(x[i]));
      EXPECT_EQ(scale, static_cast<float>(e4m3(g * amax / 6.0f)));
      for (std::int64_t i = 0; i < 16; ++i) {
        const auto byte = static_cast<unsigned>(
            w.out.bytes()[static_cast<std::size_t>(row * 24 + column * 8 + i / 2)]);
        const auto nibble = static_cast<std::uint8_t>(i % 2 == 0 ? byte & 0xf : byte >> 4);
        const float value = static_cast<float>(e2m1::from_bits(nibble)) * scale / g;
        // Half of e2m1's widest step, 2, and what rounding the scale may cut off.
        EXPECT_NEAR(value, x[i], amax / 6.0f * 1.0f + amax * 0.07f);
        if (scale == 0.0f) {
          EXPECT_EQ(nibble, 0);
        }
      }
    }
  }
}

TEST(OutputWriter, NanAndInfStayInTheirGroup) {
  std::vector<float> o = wave(128, 1.0f);
  o[3] = std::numeric_limits<float>::quiet_NaN();
  o[5] = std::numeric_limits<float>::infinity();
  const Written w(Dtype::e4m3, o, 128, OutputKind::fp8_groups, 64, {},
                  HostTensor(Dtype::f32, {1, 2}));
  EXPECT_TRUE(std::isnan(w.out.get(3)));
  EXPECT_EQ(w.out.get(5), 448.0f);
  EXPECT_TRUE(std::isfinite(w.group_scale.get(0)));
  for (std::int64_t i = 0; i < 128; ++i) {
    if (i != 3) {
      EXPECT_FALSE(std::isnan(w.out.get(i)));
    }
  }
}

}  // namespace
}  // namespace sotto::core

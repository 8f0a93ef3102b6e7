// quantize() and channel_mean(): what the header promises, of backends cpu and reference.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/channel_mean.h"
#include "cpu/quantize.h"
#include "host_tensor.h"
#include "reference/quantize.h"

namespace sotto {
namespace {

using test::HostTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Implementation {
  const char* name;
  void (*quantize)(const QuantizeArgs&);
  void (*channel_mean)(const ChannelMeanArgs&);
};

class Quantize : public testing::TestWithParam<Implementation> {
 protected:
  void quantize(const QuantizeArgs& args) const { GetParam().quantize(args); }
  void channel_mean(const ChannelMeanArgs& args) const { GetParam().channel_mean(args); }
};

INSTANTIATE_TEST_SUITE_P(Backends, Quantize,
                         testing::Values(Implementation{"cpu", cpu::quantize, cpu::channel_mean},
                                         Implementation{"reference", reference::quantize,
                                                        reference::channel_mean}),
                         [](const auto& test) { return std::string(test.param.name); });

Scale scale_of(const HostTensor& values, Granularity granularity, std::int64_t block = 0,
               const Tensor& cu_blocks = {}) {
  Scale scale;
  scale.values = values;
  scale.granularity = granularity;
  scale.block = block;
  scale.cu_blocks = cu_blocks;
  return scale;
}

// One token, one head.
struct OneRow {
  HostTensor x, out, lo, descale{Dtype::f32, {1}};
  QuantizeArgs args;

  OneRow(const std::vector<float>& values, Dtype dtype_out, Dtype dtype_x = Dtype::f32)
      : x(dtype_x, {1, 1, 1, static_cast<std::int64_t>(values.size())}, values),
        out(dtype_out, {1, 1, 1, static_cast<std::int64_t>(values.size())}),
        lo(Dtype::e4m3, {1, 1, 1, static_cast<std::int64_t>(values.size())}) {
    args.x = x;
    args.out = out;
    if (core::is_quantized(dtype_out)) args.descale = scale_of(descale, Granularity::tensor);
  }
};

TEST_P(Quantize, E4m3ByHand) {
  OneRow r({896.0f, -2.0f, 1.0f, 0.0f, 30.0f, 34.0f, -38.0f, 0.001f}, Dtype::e4m3);
  quantize(r.args);
  EXPECT_EQ(r.descale.get(0), 2.0f);
  // 17 and 19 lie between 16 and 18, 18 and 20: ties go to the even codes 16 and 20. 0.0005 is
  // below half of the smallest code, 2^-9.
  EXPECT_EQ(r.out.values(),
            (std::vector<float>{448.0f, -1.0f, 0.5f, 0.0f, 15.0f, 16.0f, -20.0f, 0.0f}));
}

TEST_P(Quantize, Int8ByHand) {
  OneRow r({254.0f, -254.0f, 1.0f, 3.0f, 5.0f, -5.0f, 2.0f, 0.9f}, Dtype::i8);
  quantize(r.args);
  EXPECT_EQ(r.descale.get(0), 2.0f);
  EXPECT_EQ(r.out.values(), (std::vector<float>{127, -127, 0, 2, 2, -2, 1, 0}));
}

TEST_P(Quantize, DescaleIsAmaxOverLargest) {
  for (float amax : {1e-30f, 0.3f, 5.0f, 1e30f}) {
    OneRow e({amax, -amax / 2, 0.0f}, Dtype::e4m3), i({amax, -amax / 2, 0.0f}, Dtype::i8);
    quantize(e.args);
    quantize(i.args);
    EXPECT_EQ(e.descale.get(0), amax / 448.0f);
    EXPECT_EQ(i.descale.get(0), amax / 127.0f);
  }
}

TEST_P(Quantize, ZerosHaveScaleOne) {
  for (Dtype dtype : {Dtype::e4m3, Dtype::i8}) {
    OneRow r({0.0f, -0.0f, 0.0f}, dtype);
    quantize(r.args);
    EXPECT_EQ(r.descale.get(0), 1.0f);
    EXPECT_EQ(r.out.values(), (std::vector<float>{0, 0, 0}));
  }
}

TEST_P(Quantize, NotANumberStaysAloneAndInfinitySaturates) {
  OneRow e({kNaN, kInf, -kInf, 2.0f, -448.0f, 0.0f}, Dtype::e4m3);
  e.args.out_lo = e.lo;
  quantize(e.args);
  EXPECT_EQ(e.descale.get(0), 1.0f);
  EXPECT_TRUE(std::isnan(e.out.get(0)));
  EXPECT_EQ(e.out.get(1), 448.0f);
  EXPECT_EQ(e.out.get(2), -448.0f);
  EXPECT_EQ(e.out.get(3), 2.0f);
  EXPECT_EQ(e.out.get(4), -448.0f);
  EXPECT_EQ(e.lo.get(1), 0.0f);

  OneRow i({kNaN, kInf, -kInf, 2.0f, -127.0f, 0.0f}, Dtype::i8);
  quantize(i.args);
  EXPECT_EQ(i.descale.get(0), 1.0f);
  EXPECT_EQ(i.out.values(), (std::vector<float>{0, 127, -127, 2, -127, 0}));

  OneRow nothing_finite({kNaN, kInf}, Dtype::i8);
  quantize(nothing_finite.args);
  EXPECT_EQ(nothing_finite.descale.get(0), 1.0f);
}

TEST_P(Quantize, DenormalsHaveTheSmallestNormalScale) {
  OneRow r({0x1p-127f, -0x1p-140f}, Dtype::e4m3);
  quantize(r.args);
  EXPECT_EQ(r.descale.get(0), 0x1p-126f);
  EXPECT_EQ(r.out.get(0), 0.5f);
  EXPECT_EQ(r.out.get(1), 0.0f);  // 2^-14 is far below the smallest code
}

TEST_P(Quantize, HugeNumbersStayFinite) {
  const HostTensor cos(Dtype::f32, {1, 8}, std::vector<float>(8, 0.7071f));
  const HostTensor sin(Dtype::f32, {1, 8}, std::vector<float>(8, -0.7071f));
  const HostTensor mean(Dtype::f32, {1, 1, 16}, std::vector<float>(16, -3e38f));
  for (Dtype dtype : {Dtype::e4m3, Dtype::i8, Dtype::f32, Dtype::bf16, Dtype::f16}) {
    OneRow r(std::vector<float>(16, 3e38f), dtype);
    r.x.set(5, -3.4e38f);
    r.args.rope.cos = cos;
    r.args.rope.sin = sin;
    r.args.hadamard = true;
    r.args.mean = mean;
    quantize(r.args);
    for (float value : r.out.values()) EXPECT_TRUE(std::isfinite(value)) << dtype_name(dtype);
    if (core::is_quantized(dtype)) {
      EXPECT_TRUE(std::isfinite(r.descale.get(0)));
      EXPECT_EQ(std::fabs(r.out.get(0)), dtype == Dtype::i8 ? 127.0f : 448.0f);
    }
  }
}

TEST_P(Quantize, PowerOfTwoScalesAreRoundedUp) {
  for (float amax : {448.0f, 449.0f, 1000.0f, 0.1f, 1e-45f, 3e38f}) {
    OneRow r({amax, amax / 3}, Dtype::e4m3);
    r.args.power_of_two = true;
    quantize(r.args);
    int exponent;
    EXPECT_EQ(std::frexp(r.descale.get(0), &exponent), 0.5f) << amax;
    EXPECT_GE(r.descale.get(0), amax / 448.0f);
    if (amax > 1e-30f) {
      EXPECT_LT(r.descale.get(0), 2 * amax / 448.0f);
    }
  }
}

TEST_P(Quantize, ErrorsAreWithinHalfAStep) {
  std::mt19937 random(1);
  for (Dtype dtype : {Dtype::e4m3, Dtype::i8}) {
    HostTensor x = HostTensor::normal(Dtype::bf16, {2, 5, 3, 48}, random);
    HostTensor out(dtype, {2, 5, 3, 48}), lo(Dtype::e4m3, {2, 5, 3, 48});
    HostTensor descale(Dtype::f32, {2, 5, 3});
    QuantizeArgs args;
    args.x = x;
    args.out = out;
    args.descale = scale_of(descale, Granularity::token);
    if (dtype == Dtype::e4m3) args.out_lo = lo;
    quantize(args);
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const float s = descale.get(i / 48);
      const float error = std::fabs(x.get(i) - out.get(i) * s);
      if (dtype == Dtype::i8) {
        EXPECT_LE(error, 0.5001f * s);
        continue;
      }
      EXPECT_LE(error, std::max(std::fabs(x.get(i)) * 0x1.001p-4f, s * 0x1.001p-10f));
      const float both = std::fabs(x.get(i) - (out.get(i) + lo.get(i)) * s);
      EXPECT_LE(both, std::max(error * 0x1.01p-4f, s * 0x1.01p-10f));
    }
  }
}

// x[t, h] is full of one number; which ones share a scale shows in the scales.
struct Steps {
  HostTensor x, out;
  // batch 2, len 5, heads 4, dim 16: token t of head h of sequence b holds 448·(1 + 100b + 10t +
  // h).
  Steps() : x(Dtype::f32, {2, 5, 4, 16}), out(Dtype::e4m3, {2, 5, 4, 16}) {
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const std::int64_t h = i / 16 % 4, t = i / 64 % 5, b = i / 320;
      x.set(i, -448.0f * static_cast<float>(1 + 100 * b + 10 * t + h));
    }
  }
};

TEST_P(Quantize, SharesOfEachGranularity) {
  struct Case {
    Granularity granularity;
    std::vector<std::int64_t> shape;
    std::vector<float> expected;
  };
  const HostTensor seqused = HostTensor::ints({5, 3});
  std::vector<float> per_token;
  for (int b = 0; b < 2; ++b) {
    for (int t = 0; t < 5; ++t) {
      for (int h = 0; h < 4; ++h) {
        per_token.push_back(b == 1 && t >= 3 ? 1.0f : static_cast<float>(1 + 100 * b + 10 * t + h));
      }
    }
  }
  const std::vector<Case> cases = {
      {Granularity::tensor, {1}, {124}},
      {Granularity::head, {2, 4}, {41, 42, 43, 44, 121, 122, 123, 124}},
      {Granularity::kv_head, {2, 2}, {42, 44, 122, 124}},
      {Granularity::block, {2, 4, 3}, {11,  31,  41, 12,  32,  42, 13,  33,  43, 14,  34,  44,  //
                                       111, 121, 1,  112, 122, 1,  113, 123, 1,  114, 124, 1}},
      {Granularity::token, {2, 5, 4}, per_token},
  };
  for (const Case& c : cases) {
    Steps s;
    HostTensor descale(Dtype::f32, c.shape);
    QuantizeArgs args;
    args.x = s.x;
    args.out = s.out;
    args.seqused = seqused;
    args.descale = scale_of(descale, c.granularity, 2);
    quantize(args);
    EXPECT_EQ(descale.values(), c.expected) << static_cast<int>(c.granularity);
    EXPECT_TRUE(descale.end_is_untouched() && s.out.end_is_untouched());
    for (std::int64_t i = 0; i < s.out.numel(); ++i) {
      const std::int64_t t = i / 64 % 5, b = i / 320;
      if (b == 1 && t >= 3) {
        EXPECT_EQ(s.out.get(i), 0.0f);
      } else {
        EXPECT_LT(s.out.get(i), 0.0f);
      }
    }
  }
}

TEST_P(Quantize, PackedSequencesAndTheirBlocks) {
  // Lengths 3, 0, 4; two packed tokens belong to nobody. Blocks of 2: 2, 0 and 2; one slot is
  // spare.
  const HostTensor cu_seqlens = HostTensor::ints({1, 4, 4, 8});
  const HostTensor cu_blocks = HostTensor::ints({0, 2, 2, 4});
  const HostTensor seqused = HostTensor::ints({3, 0, 1});
  HostTensor x(Dtype::f32, {9, 1, 16}), out(Dtype::i8, {9, 1, 16}), descale(Dtype::f32, {1, 5});
  for (std::int64_t i = 0; i < x.numel(); ++i) x.set(i, 127.0f * static_cast<float>(1 + i / 16));
  QuantizeArgs args;
  args.x = x;
  args.out = out;
  args.cu_seqlens = cu_seqlens;
  args.seqused = seqused;
  args.descale = scale_of(descale, Granularity::block, 2, cu_blocks);
  quantize(args);
  EXPECT_EQ(descale.values(), (std::vector<float>{3, 4, 5, 1, 1}));
  const std::vector<float> expected = {-91, 85, 127, 127, 127, 0, 0, 0, -91};  // -91: untouched
  for (std::int64_t t = 0; t < 9; ++t) {
    EXPECT_EQ(out.get(t * 16 + 7), expected[static_cast<std::size_t>(t)]) << t;
  }

  HostTensor token_scales(Dtype::f32, {9, 1}), head_scales(Dtype::f32, {3, 1});
  args.descale = scale_of(token_scales, Granularity::token);
  quantize(args);
  EXPECT_EQ(token_scales.values(), (std::vector<float>{1, 2, 3, 4, 5, 1, 1, 1, 1}));
  args.descale = scale_of(head_scales, Granularity::head);
  quantize(args);
  EXPECT_EQ(head_scales.values(), (std::vector<float>{4, 1, 5}));
}

TEST_P(Quantize, EmptyRequests) {
  HostTensor none(Dtype::bf16, {0, 4, 2, 16}), out(Dtype::e4m3, {0, 4, 2, 16});
  HostTensor descale(Dtype::f32, {1});
  QuantizeArgs args;
  args.x = none;
  args.out = out;
  args.descale = scale_of(descale, Granularity::tensor);
  quantize(args);
  EXPECT_EQ(descale.get(0), 1.0f);

  HostTensor no_tokens(Dtype::bf16, {3, 0, 2, 16}), no_out(Dtype::e4m3, {3, 0, 2, 16});
  HostTensor heads(Dtype::f32, {3, 2});
  args.x = no_tokens;
  args.out = no_out;
  args.descale = scale_of(heads, Granularity::head);
  quantize(args);
  EXPECT_EQ(heads.values(), std::vector<float>(6, 1.0f));
}

TEST_P(Quantize, AnyStrides) {
  std::mt19937 random(2);
  HostTensor packed = HostTensor::normal(Dtype::f16, {2, 3, 4, 16}, random);
  HostTensor wide(Dtype::f16, {2, 4, 3, 24});  // heads outside, rows with a gap
  HostTensor out(Dtype::e4m3, {2, 3, 4, 16}), wide_out(Dtype::e4m3, {2, 4, 3, 24});
  HostTensor descale(Dtype::f32, {2, 3, 4}), wide_descale(Dtype::f32, {4, 3, 2});
  Tensor x = wide.view().transposed(1, 2), y = wide_out.view().transposed(1, 2);
  x.shape[3] = y.shape[3] = 16;
  for (std::int64_t i = 0; i < packed.numel(); ++i) {
    const std::int64_t c = i % 16, h = i / 16 % 4, t = i / 64 % 3, b = i / 192;
    wide.set(b * x.stride(0) + t * x.stride(1) + h * x.stride(2) + c, packed.get(i));
  }
  QuantizeArgs args;
  args.x = packed;
  args.out = out;
  args.descale = scale_of(descale, Granularity::token);
  quantize(args);
  args.x = x;
  args.out = y;
  args.descale = scale_of(wide_descale, Granularity::token);
  args.descale.values = wide_descale.view().transposed(0, 2);
  quantize(args);
  for (std::int64_t i = 0; i < packed.numel(); ++i) {
    const std::int64_t c = i % 16, h = i / 16 % 4, t = i / 64 % 3, b = i / 192;
    EXPECT_EQ(wide_out.get(b * y.stride(0) + t * y.stride(1) + h * y.stride(2) + c), out.get(i));
    EXPECT_EQ(wide_descale.get(h * 6 + t * 2 + b), descale.get(i / 16));
  }
  for (std::int64_t row = 0; row < 24; ++row) {  // the gaps
    for (std::int64_t c = 16; c < 24; ++c) {
      EXPECT_EQ(*reinterpret_cast<std::byte*>(wide_out.view().at(row * 24 + c)),
                HostTensor::kUntouched);
    }
  }
}

TEST_P(Quantize, SubtractsTheMeanAndReportsWhatWasTaken) {
  std::mt19937 random(3);
  // Four query heads, two kv heads, three tokens of which two count.
  const HostTensor seqused = HostTensor::ints({2});
  for (const bool before : {false, true}) {
    HostTensor x = HostTensor::normal(Dtype::f32, {1, 3, 4, 16}, random);
    HostTensor out(Dtype::f32, {1, 3, 4, 16});
    const HostTensor mean = HostTensor::normal(Dtype::f32, {1, 4, 16}, random);
    const HostTensor with = HostTensor::normal(Dtype::f32, {1, 2, 16}, random);
    HostTensor dot(Dtype::f32, {1, 4, 3});
    QuantizeArgs args;
    args.x = x;
    args.out = out;
    args.mean = mean;
    args.dot_with = with;
    args.dot = dot;
    args.dot_scale = 0.5f;
    args.dot_before_mean = before;
    args.seqused = seqused;
    quantize(args);
    for (std::int64_t t = 0; t < 3; ++t) {
      for (std::int64_t h = 0; h < 4; ++h) {
        double expected = 0.0;
        for (std::int64_t c = 0; c < 16; ++c) {
          const double value = x.get((t * 4 + h) * 16 + c);
          const double centred = value - mean.get(h * 16 + c);
          expected += 0.5 * (before ? value : centred) * with.get(h / 2 * 16 + c);
          EXPECT_NEAR(out.get((t * 4 + h) * 16 + c), t < 2 ? centred : 0.0, 1e-6);
        }
        EXPECT_NEAR(dot.get(h * 3 + t), t < 2 ? expected : 0.0, 2e-6) << t << " " << h;
      }
    }
  }
}

TEST_P(Quantize, DotsOfEachQueryHeadWithItsKeyHead) {
  std::mt19937 random(4);
  const HostTensor cu_seqlens = HostTensor::ints({0, 2, 3});
  const HostTensor k = HostTensor::normal(Dtype::bf16, {3, 2, 16}, random);
  HostTensor out(Dtype::bf16, {3, 2, 16}), dot(Dtype::f32, {6, 3});
  const HostTensor q_mean = HostTensor::normal(Dtype::f32, {2, 6, 16}, random);
  QuantizeArgs args;
  args.x = k;
  args.out = out;
  args.dot_with = q_mean;
  args.dot = dot;
  args.cu_seqlens = cu_seqlens;
  quantize(args);
  for (std::int64_t h = 0; h < 6; ++h) {
    for (std::int64_t t = 0; t < 3; ++t) {
      double expected = 0.0;
      for (std::int64_t c = 0; c < 16; ++c) {
        expected += static_cast<double>(k.get((t * 2 + h / 3) * 16 + c)) *
                    q_mean.get(((t < 2 ? 0 : 6) + h) * 16 + c);
      }
      EXPECT_NEAR(dot.get(h * 3 + t), expected, 4e-6) << h << " " << t;
    }
  }
}

// cos and sin of `positions` angles for `pairs` pairs.
struct RopeTables {
  HostTensor cos, sin;
  RopeTables(std::int64_t positions, std::int64_t pairs)
      : cos(Dtype::f32, {positions, pairs}), sin(Dtype::f32, {positions, pairs}) {
    for (std::int64_t p = 0; p < positions; ++p) {
      for (std::int64_t i = 0; i < pairs; ++i) {
        const double frequency = std::pow(10000.0, -static_cast<double>(i) / pairs);
        cos.set(p * pairs + i, static_cast<float>(std::cos(p * frequency)));
        sin.set(p * pairs + i, static_cast<float>(std::sin(p * frequency)));
      }
    }
  }
};

TEST_P(Quantize, RopeByAQuarterTurn) {
  // Row 1 of the tables turns by 90 degrees, row 0 not at all.
  const HostTensor cos(Dtype::f32, {2, 2}, {1, 1, 0, 0}), sin(Dtype::f32, {2, 2}, {0, 0, 1, 1});
  const HostTensor x(Dtype::f32, {1, 2, 1, 6}, {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6});
  HostTensor out(Dtype::f32, {1, 2, 1, 6});
  QuantizeArgs args;
  args.x = x;
  args.out = out;
  args.rope.cos = cos;
  args.rope.sin = sin;
  args.rope.rotary_dim = 4;
  quantize(args);
  EXPECT_EQ(out.values(), (std::vector<float>{1, 2, 3, 4, 5, 6, -3, -4, 1, 2, 5, 6}));
  args.rope.interleaved = true;
  quantize(args);
  EXPECT_EQ(out.values(), (std::vector<float>{1, 2, 3, 4, 5, 6, -2, 1, -4, 3, 5, 6}));
  HostTensor positions = HostTensor::ints({1, 0});
  args.rope.positions = Tensor(positions.view().data, Dtype::i32, {1, 2});
  quantize(args);
  EXPECT_EQ(out.values(), (std::vector<float>{-2, 1, -4, 3, 5, 6, 1, 2, 3, 4, 5, 6}));
}

TEST_P(Quantize, RopeTablesMayLieTransposed) {
  const RopeTables tables(7, 8);
  std::mt19937 random(5);
  const HostTensor x = HostTensor::normal(Dtype::f32, {1, 7, 1, 16}, random);
  HostTensor out(Dtype::f32, {1, 7, 1, 16}), again(Dtype::f32, {1, 7, 1, 16});
  QuantizeArgs args;
  args.x = x;
  args.out = out;
  args.rope.cos = tables.cos;
  args.rope.sin = tables.sin;
  quantize(args);
  HostTensor turned(Dtype::f32, {8, 7});
  for (std::int64_t i = 0; i < 56; ++i) turned.set(i % 8 * 7 + i / 8, tables.cos.get(i));
  args.rope.cos = turned.view().transposed(0, 1);
  args.out = again;
  quantize(args);
  EXPECT_EQ(out.values(), again.values());
}

TEST_P(Quantize, RopeDependsOnDistanceOnlyAndHadamardCancels) {
  const RopeTables tables(40, 32);
  std::mt19937 random(6);
  const HostTensor q = HostTensor::normal(Dtype::f32, {1, 1, 1, 64}, random);
  const HostTensor k = HostTensor::normal(Dtype::f32, {1, 1, 1, 64}, random);
  for (const bool interleaved : {false, true}) {
    const auto score = [&](std::int32_t i, std::int32_t j, bool hadamard) {
      const auto turned = [&](const HostTensor& x, std::int32_t position) {
        HostTensor out(Dtype::f32, {1, 1, 1, 64}), positions = HostTensor::ints({position});
        QuantizeArgs args;
        args.x = x;
        args.out = out;
        args.rope.cos = tables.cos;
        args.rope.sin = tables.sin;
        args.rope.interleaved = interleaved;
        args.rope.positions = Tensor(positions.view().data, Dtype::i32, {1, 1});
        args.hadamard = hadamard;
        quantize(args);
        return out.values();
      };
      const std::vector<float> a = turned(q, i), b = turned(k, j);
      double dot = 0.0;
      for (std::size_t c = 0; c < a.size(); ++c) dot += static_cast<double>(a[c]) * b[c];
      return dot;
    };
    EXPECT_NEAR(score(3, 1, false), score(30, 28, false), 2e-5);
    EXPECT_NEAR(score(3, 1, true), score(30, 28, false), 2e-5);
    EXPECT_GT(std::fabs(score(3, 1, false) - score(3, 2, false)), 1e-2);
  }
}

TEST_P(Quantize, ChannelMeanByHand) {
  // Two sequences of 4 tokens, one channel of interest; the second has two valid tokens.
  HostTensor x(Dtype::f32, {2, 4, 1, 2},
               {1, kNaN, 3, kInf, 5, kNaN, 7, -kInf,  //
                2, 10, 4, kNaN, 100, 100, 100, 100});
  HostTensor mean(Dtype::f32, {2, 1, 2});
  const HostTensor seqused = HostTensor::ints({4, 2});
  ChannelMeanArgs args;
  args.x = x;
  args.mean = mean;
  args.seqused = seqused;
  channel_mean(args);
  EXPECT_EQ(mean.values(), (std::vector<float>{4, 0, 3, 10}));
  args.max_tokens = 3;
  channel_mean(args);
  EXPECT_EQ(mean.values(), (std::vector<float>{3, 0, 3, 10}));
  const HostTensor nobody = HostTensor::ints({0, 0});
  args.seqused = nobody;
  channel_mean(args);
  EXPECT_EQ(mean.values(), std::vector<float>(4, 0.0f));
}

TEST_P(Quantize, ChannelMeanOfQuantisedAndPackedData) {
  const HostTensor cu_seqlens = HostTensor::ints({0, 2, 2, 3});
  const HostTensor x(Dtype::i8, {3, 2, 1}, {10, 20, 30, 40, 50, -60});
  const HostTensor descale(Dtype::f32, {3, 2}, {1, 0.5f, 2, 0.5f, 3, 1});
  HostTensor mean(Dtype::f32, {3, 2, 1});
  ChannelMeanArgs args;
  args.x = x;
  args.mean = mean;
  args.cu_seqlens = cu_seqlens;
  args.descale = scale_of(descale, Granularity::token);
  channel_mean(args);
  EXPECT_EQ(mean.values(), (std::vector<float>{35, 15, 0, 0, 150, -60}));
}

TEST_P(Quantize, ChannelMeanIsAccurateOverManyTokens) {
  // 20,000 tokens of 1,000 ± 1: fp32 sums would lose the last digits.
  const std::int64_t len = GetParam().quantize == cpu::quantize ? 20000 : 2000;
  HostTensor x(Dtype::f32, {1, len, 1, 8});
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.set(i, 1000.0f + 0.25f * static_cast<float>(i % 8) + (i / 8 % 2 == 0 ? 1.0f : -1.0f));
  }
  HostTensor mean(Dtype::f32, {1, 1, 8});
  ChannelMeanArgs args;
  args.x = x;
  args.mean = mean;
  channel_mean(args);
  for (std::int64_t c = 0; c < 8; ++c) {
    EXPECT_EQ(mean.get(c), 1000.0f + 0.25f * static_cast<float>(c));
  }
}

}  // namespace
}  // namespace sotto

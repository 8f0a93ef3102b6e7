// sdpa()'s quantiser on the GPU against quantize() and channel_mean() of backend cpu.
#include <cmath>

#include "qkv_output.h"
#include "qkv_reference.h"

namespace sotto::test {
namespace {

float e4m3_value(std::uint8_t code) { return static_cast<float>(e4m3::from_bits(code)); }
bool is_nan(std::uint8_t code) { return (code & 0x7f) == 0x7f; }
// Neighbours differ by 1.
int rank(std::uint8_t code) { return code & 0x80 ? -(code & 0x7f) : code; }

// Q or K of a sequence. INT8: the codes of the CPU, but for a few by 1 (sums in another order).
// e4m3, whose scales differ: what they stand for.
void check_rows(const QkvData& data, const QkvOutput& output, const QuantizedRows& expected,
                Operand operand, int b) {
  const bool int8 = data.options.recipe.qk == QkFormat::int8;
  const int heads = operand == Operand::q ? data.c.heads_q : data.c.heads_kv, dim = data.c.dim_qk;
  const int length = data.used(operand, b);
  int off = 0, wrong = 0;
  double worst_scale = 0.0, worst_dot = 0.0;
  for (int token = 0; token < length; ++token) {
    for (int head = 0; head < heads; ++head) {
      const float s = output.scale(operand, b, head, token);
      if (int8) {
        worst_scale =
            std::max(worst_scale, std::fabs(s / double{expected.scale_at(head, token)} - 1.0));
      }
      for (int d = 0; d < dim; ++d) {
        const std::int64_t i = (std::int64_t{token} * heads + head) * dim + d;
        const std::uint8_t code = output.code(operand, b, head, token, d);
        if (int8) {
          const int difference =
              std::abs(static_cast<std::int8_t>(code) - static_cast<int>(expected.codes.get(i)));
          off += difference > 0;
          wrong += difference > 1;
          continue;
        }
        const float x = expected.values.get(i), y = e4m3_value(code) * s;
        if (std::isnan(x) || std::isnan(y)) {
          wrong += std::isnan(x) != std::isnan(y);
        } else if (std::isfinite(x)) {
          wrong += std::fabs(x - y) > std::fabs(x) * 0.0626f + s * 0.001f;
        } else {
          wrong += !(std::fabs(y) > 13.9f * s && (y > 0) == (x > 0));
        }
      }
      if (expected.dot.numel() == 0) continue;
      const float dot = expected.dot.get(std::int64_t{head} * length + token);
      if (std::isfinite(dot)) {
        const float difference = output.row_bias(b, head, token) - dot;
        worst_dot = std::max<double>(worst_dot, std::fabs(difference));
      }
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(off, 2 + 2e-3 * length * heads * dim);
  EXPECT_LE(worst_scale, 2e-6);
  EXPECT_LE(worst_dot, 1e-3);
}

// V of a sequence: the codes of the CPU, a NaN as 0 and its key as a bad one; behind the sequence
// zeros.
void check_v(const QkvData& data, const QkvOutput& output, const QuantizedRows& expected, int b) {
  const Recipe& recipe = data.options.recipe;
  const int length = data.used(Operand::v, b), padded = (length + 127) / 128 * 128;
  const int heads = data.c.heads_kv, dim = data.c.dim_v;
  const bool exact =
      !recipe.v_mean && recipe.hadamard != Hadamard::qkv && recipe.hadamard != Hadamard::v_only;
  int wrong = 0, off = 0, not_zero = 0, wrong_bits = 0;
  for (int head = 0; head < heads; ++head) {
    std::vector<bool> bad(static_cast<std::size_t>(padded));
    for (int d = 0; d < dim; ++d) {
      double sum = 0.0, sum_stored = 0.0;
      for (int token = 0; token < padded; ++token) {
        const std::uint8_t code = output.v_code(b, head, token, d);
        if (token >= length) {
          not_zero += code != 0;
          continue;
        }
        const std::int64_t i = (std::int64_t{token} * heads + head) * dim + d;
        const float s = output.scale(Operand::v, b, head, token);
        std::uint8_t code_expected = e4m3(expected.codes.get(i)).bits;
        if (is_nan(code_expected)) {
          bad[static_cast<std::size_t>(token)] = true;
          code_expected = 0;
        }
        sum += expected.values.get(i);
        sum_stored += e4m3_value(code) * s;
        const int difference = std::abs(rank(code) - rank(code_expected));
        off += difference > 0;
        wrong += difference > 1 ||
                 std::fabs(s / expected.scale_at(head, token) - 1.0f) > (exact ? 0.0f : 1e-5f);
      }
      if (recipe.v_mean && !data.c.special) {  // with what rounding took from it
        const float mean = expected.mean.get(std::int64_t{head} * dim + d) +
                           static_cast<float>((sum - sum_stored) / length);
        wrong += std::fabs(output.v_mean(b, head, d) - mean) > 1e-4f;
      }
    }
    for (int token = 0; token < padded; ++token) {
      wrong_bits += output.is_bad_key(b, head, token) != bad[static_cast<std::size_t>(token)];
    }
  }
  EXPECT_EQ(not_zero, 0);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(wrong_bits, 0);
  EXPECT_LE(off, exact ? 0 : 2 + 2e-3 * length * heads * dim);
}

// Their product with the softmax's scale is a half, and S fits into one.
void check_e4m3_scales(const QkvData& data, const QkvOutput& output, int b) {
  const int group = data.c.heads_q / data.c.heads_kv;
  for (int head = 0; head < data.c.heads_kv; ++head) {
    const double q = output.scale(Operand::q, b, head * group, 0);
    const double k = output.scale(Operand::k, b, head, 0);
    int exponent;
    const double fraction =
        2048 * std::frexp(q * k * data.problem.scale * 1.4426950408889634, &exponent);
    EXPECT_NEAR(fraction, std::round(fraction), 1e-3);
  }
  const auto largest = [&](Operand operand, int heads) {
    float most = 0.0f;
    for (int token = 0; token < data.used(operand, b); ++token) {
      for (int head = 0; head < heads; ++head) {
        for (int d = 0; d < data.c.dim_qk; ++d) {
          const std::uint8_t code = output.code(operand, b, head, token, d);
          if (!is_nan(code)) most = std::max(most, std::fabs(e4m3_value(code)));
        }
      }
    }
    return most;
  };
  const float q = largest(Operand::q, data.c.heads_q), k = largest(Operand::k, data.c.heads_kv);
  EXPECT_LE(q, 14.0f);
  EXPECT_GE(q, 13.0f);
  EXPECT_EQ(k, data.c.dim_qk <= 128 ? 28.0f : 14.0f);
}

class QkvTest : public testing::TestWithParam<QkvCase> {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      cudaGetLastError();
      GTEST_SKIP() << "no device";
    }
  }
};

TEST_P(QkvTest, AgreesWithTheCpu) {
  const QkvData data(GetParam());
  const Reasons reasons = cuda::refuse_qkv(data.args, data.options, data.problem);
  ASSERT_TRUE(reasons.empty()) << reasons.front();
  const QkvOutput output(data);
  for (int b = 0; b < data.batch(); ++b) {
    if (data.used(Operand::q, b) == 0 || data.used(Operand::k, b) == 0) continue;
    const std::string sequence = " of sequence " + std::to_string(b);
    const QuantizedRows k = quantize_on_cpu(data, Operand::k, b);
    {
      SCOPED_TRACE("k" + sequence);
      check_rows(data, output, k, Operand::k, b);
    }
    {
      SCOPED_TRACE("q" + sequence);
      check_rows(data, output, quantize_on_cpu(data, Operand::q, b, k.mean), Operand::q, b);
    }
    {
      SCOPED_TRACE("v" + sequence);
      check_v(data, output, quantize_on_cpu(data, Operand::v, b), b);
    }
    if (data.options.recipe.qk == QkFormat::e4m3) check_e4m3_scales(data, output, b);
  }
}

const std::vector<QkvCase> kCases{
    {.name = "int8", .lens_q = {300}, .lens_k = {300}},
    {.name = "int8_long", .lens_q = {200}, .lens_k = {1700}, .rope = RopeForm::halves, .batch = 2},
    {.name = "int8_rope_br",
     .lens_q = {130},
     .lens_k = {517},
     .rope = RopeForm::halves,
     .bottom_right = true,
     .lse = true},
    {.name = "int8_interleaved",
     .lens_q = {140},
     .lens_k = {140},
     .heads_q = 4,
     .heads_kv = 2,
     .rope = RopeForm::interleaved,
     .positions = true,
     .lse = true},
    {.name = "int8_partial",
     .recipe = "int8qk+smooth_k=off",
     .lens_q = {140},
     .lens_k = {150},
     .rope = RopeForm::partial,
     .special = true},
    {.name = "int8_per_channel", .lens_q = {33}, .lens_k = {257}, .rope = RopeForm::per_channel},
    {.name = "int8_64",
     .lens_q = {400},
     .lens_k = {400},
     .heads_q = 6,
     .heads_kv = 3,
     .dim_qk = 64,
     .dim_v = 64,
     .dtype = Dtype::f16,
     .rope = RopeForm::halves},
    {.name = "int8_256",
     .lens_q = {150},
     .lens_k = {300},
     .dim_qk = 256,
     .dim_v = 256,
     .rope = RopeForm::interleaved,
     .lse = true},
    {.name = "int8_packed",
     .lens_q = {1, 0, 200, 129},
     .lens_k = {130, 7, 0, 128},
     .packed = true,
     .heads_q = 4,
     .heads_kv = 2,
     .rope = RopeForm::halves,
     .lse = true},
    {.name = "int8_packed_used",
     .lens_q = {100, 200},
     .lens_k = {300, 20},
     .packed = true,
     .rope = RopeForm::halves,
     .bottom_right = true,
     .seqused = true},
    {.name = "int8_used",
     .lens_q = {300},
     .lens_k = {300},
     .rope = RopeForm::halves,
     .seqused = true,
     .batch = 2},
    {.name = "int8_unaligned",
     .lens_q = {65},
     .lens_k = {190},
     .rope = RopeForm::halves,
     .padding = 3},
    {.name = "int8_special",
     .recipe = "int8qk+smooth_k=off",
     .lens_q = {300},
     .lens_k = {300},
     .special = true},
    {.name = "int8_80_48",
     .lens_q = {100},
     .lens_k = {170},
     .dim_qk = 80,
     .dim_v = 48,
     .rope = RopeForm::halves},
    {.name = "int8_v_mean", .recipe = "int8qk+v_mean", .lens_q = {64}, .lens_k = {700}},
    {.name = "fp8",
     .recipe = "fp8",
     .lens_q = {300},
     .lens_k = {500},
     .heads_q = 4,
     .heads_kv = 2,
     .batch = 2},
    {.name = "fp8_rope",
     .recipe = "fp8",
     .lens_q = {700},
     .lens_k = {700},
     .heads_q = 3,
     .heads_kv = 3,
     .dtype = Dtype::f16,
     .rope = RopeForm::halves},
    {.name = "fp8_special", .recipe = "fp8", .lens_q = {300}, .lens_k = {300}, .special = true},
    {.name = "fp8_hadamard",
     .recipe = "fp8-hadamard",
     .lens_q = {300},
     .lens_k = {2000},
     .rope = RopeForm::halves,
     .lse = true},
    {.name = "fp8_all",
     .recipe = "fp8-hadamard+hadamard=qkv+v_mean",
     .lens_q = {300},
     .lens_k = {900},
     .heads_q = 5,
     .heads_kv = 5,
     .dim_qk = 64,
     .dim_v = 64,
     .rope = RopeForm::interleaved},
    {.name = "fp8_192_128",
     .recipe = "fp8",
     .lens_q = {260},
     .lens_k = {300},
     .heads_q = 2,
     .heads_kv = 2,
     .dim_qk = 192,
     .dim_v = 128},
    {.name = "fp8_packed",
     .recipe = "fp8-hadamard+v_mean",
     .lens_q = {3, 300, 40},
     .lens_k = {300, 5, 129},
     .packed = true,
     .dim_qk = 96,
     .dim_v = 96,
     .rope = RopeForm::halves}};
INSTANTIATE_TEST_SUITE_P(Cases, QkvTest, testing::ValuesIn(kCases),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace sotto::test

#include "models/llama.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "models/linear.h"
#include "models/rowwise.h"
#include "sotto/error.h"

namespace sotto::models {
namespace {

using Doubles = std::vector<double>;

std::vector<float> random_floats(std::int64_t count, float deviation, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// A small model with odd sizes: 2 kv heads for 4 heads, partial RoPE, an output head of its own.
LlamaWeights small_model(bool interleaved, bool tied) {
  LlamaWeights w;
  w.config = {.layers = 2,
              .hidden = 40,
              .intermediate = 52,
              .heads = 4,
              .heads_kv = 2,
              .head_dim = 16,
              .vocab = 77,
              .context_length = 64,
              .rope_theta = 100.0f,
              .rms_eps = 1e-5f,
              .rotary_dim = 8,
              .rope_interleaved = interleaved,
              .rope_factors = {1.0f, 1.0f, 2.0f, 4.0f}};
  const LlamaConfig& c = w.config;
  std::uint32_t seed = 1;
  w.embedding = random_floats(c.vocab * c.hidden, 1.0f, seed++);
  w.final_norm = random_floats(c.hidden, 1.0f, seed++);
  if (!tied) w.output = random_floats(c.vocab * c.hidden, 0.3f, seed++);
  for (std::int64_t i = 0; i < c.layers; ++i)
    w.layers.push_back({.attention_norm = random_floats(c.hidden, 1.0f, seed++),
                        .q = random_floats(c.heads * c.head_dim * c.hidden, 0.2f, seed++),
                        .k = random_floats(c.heads_kv * c.head_dim * c.hidden, 0.2f, seed++),
                        .v = random_floats(c.heads_kv * c.head_dim * c.hidden, 0.2f, seed++),
                        .o = random_floats(c.hidden * c.heads * c.head_dim, 0.2f, seed++),
                        .ffn_norm = random_floats(c.hidden, 1.0f, seed++),
                        .gate = random_floats(c.intermediate * c.hidden, 0.2f, seed++),
                        .up = random_floats(c.intermediate * c.hidden, 0.2f, seed++),
                        .down = random_floats(c.hidden * c.intermediate, 0.2f, seed++)});
  return w;
}

Doubles times(const Doubles& x, const std::vector<float>& weight, std::size_t in) {
  const std::size_t rows = x.size() / in, out = weight.size() / in;
  Doubles y(rows * out);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t o = 0; o < out; ++o)
      for (std::size_t i = 0; i < in; ++i) y[r * out + o] += x[r * in + i] * weight[o * in + i];
  return y;
}

Doubles norm(const Doubles& x, const std::vector<float>& weight, double eps) {
  const std::size_t cols = weight.size();
  Doubles y(x.size());
  for (std::size_t r = 0; r < x.size() / cols; ++r) {
    double squares = 0;
    for (std::size_t i = 0; i < cols; ++i) squares += x[r * cols + i] * x[r * cols + i];
    for (std::size_t i = 0; i < cols; ++i)
      y[r * cols + i] =
          x[r * cols + i] / std::sqrt(squares / static_cast<double>(cols) + eps) * weight[i];
  }
  return y;
}

void rotate(const LlamaConfig& c, Doubles& x, std::int64_t heads) {
  const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / (heads * c.head_dim);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t p = 0; p < c.rotary_dim / 2; ++p) {
        const double angle = static_cast<double>(t) *
                             std::pow(c.rope_theta, -2.0 * static_cast<double>(p) / 8) /
                             c.rope_factors[static_cast<std::size_t>(p)];
        const std::int64_t a = c.rope_interleaved ? 2 * p : p;
        const std::int64_t b = c.rope_interleaved ? 2 * p + 1 : p + c.rotary_dim / 2;
        double& x0 = x[static_cast<std::size_t>((t * heads + h) * c.head_dim + a)];
        double& x1 = x[static_cast<std::size_t>((t * heads + h) * c.head_dim + b)];
        const double y0 = x0 * std::cos(angle) - x1 * std::sin(angle);
        x1 = x1 * std::cos(angle) + x0 * std::sin(angle);
        x0 = y0;
      }
}

Doubles causal_attention(const LlamaConfig& c, Doubles q, Doubles k, const Doubles& v) {
  rotate(c, q, c.heads);
  rotate(c, k, c.heads_kv);
  const auto dim = static_cast<std::size_t>(c.head_dim);
  const auto heads = static_cast<std::size_t>(c.heads),
             heads_kv = static_cast<std::size_t>(c.heads_kv);
  const std::size_t tokens = q.size() / (heads * dim);
  Doubles out(q.size());
  for (std::size_t h = 0; h < heads; ++h) {
    const std::size_t g = h / (heads / heads_kv);
    for (std::size_t i = 0; i < tokens; ++i) {
      Doubles p(i + 1);
      double sum = 0;
      for (std::size_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (std::size_t d = 0; d < dim; ++d)
          dot += q[(i * heads + h) * dim + d] * k[(j * heads_kv + g) * dim + d];
        sum += p[j] = std::exp(dot / std::sqrt(static_cast<double>(dim)));
      }
      for (std::size_t j = 0; j <= i; ++j)
        for (std::size_t d = 0; d < dim; ++d)
          out[(i * heads + h) * dim + d] += p[j] / sum * v[(j * heads_kv + g) * dim + d];
    }
  }
  return out;
}

// The whole model as the formulas say, in double.
Doubles expected_logits(const LlamaWeights& w, const std::vector<std::int32_t>& tokens) {
  const LlamaConfig& c = w.config;
  const auto hidden = static_cast<std::size_t>(c.hidden);
  Doubles x;
  for (const std::int32_t token : tokens)
    for (std::size_t i = 0; i < hidden; ++i)
      x.push_back(w.embedding[static_cast<std::size_t>(token) * hidden + i]);
  for (const LlamaLayer& layer : w.layers) {
    const Doubles n = norm(x, layer.attention_norm, c.rms_eps);
    const Doubles a = causal_attention(c, times(n, layer.q, hidden), times(n, layer.k, hidden),
                                       times(n, layer.v, hidden));
    const Doubles o = times(a, layer.o, static_cast<std::size_t>(c.heads * c.head_dim));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += o[i];
    const Doubles m = norm(x, layer.ffn_norm, c.rms_eps);
    Doubles g = times(m, layer.gate, hidden);
    const Doubles u = times(m, layer.up, hidden);
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
    const Doubles d = times(g, layer.down, static_cast<std::size_t>(c.intermediate));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += d[i];
  }
  return times(norm(x, w.final_norm, c.rms_eps), w.output.empty() ? w.embedding : w.output, hidden);
}

Doubles gather(const Tensor& t) {
  Doubles out;
  for (std::int64_t i = 0; i < t.size(1); ++i)
    for (std::int64_t h = 0; h < t.size(2); ++h)
      for (std::int64_t d = 0; d < t.size(3); ++d)
        out.push_back(
            static_cast<const float*>(t.data)[i * t.stride(1) + h * t.stride(2) + d * t.stride(3)]);
  return out;
}

// Attention of the runner under test, in double, with the rotation from the model's own tables
// left out: it is computed anew, and the tables are checked against it.
LayerAttention double_attention(const LlamaConfig& config) {
  return [config](std::int64_t, const AttentionArgs& args, const Rope& rope) {
    EXPECT_EQ(rope.interleaved, config.rope_interleaved);
    EXPECT_EQ(rope.rotary_dim, config.rotary_dim);
    EXPECT_EQ(args.mask.right, 0);
    const auto* cosines = static_cast<const float*>(rope.cos.data);
    EXPECT_NEAR(cosines[5 * 4 + 3], std::cos(5.0 * std::pow(100.0, -0.75) / 4), 1e-6);
    const Doubles out = causal_attention(config, gather(args.q), gather(args.k), gather(args.v));
    std::copy(out.begin(), out.end(), static_cast<float*>(args.out.data));
  };
}

class LlamaForward : public testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(LlamaForward, MatchesTheFormulasInDouble) {
  const auto [interleaved, tied] = GetParam();
  const LlamaWeights weights = small_model(interleaved, tied);
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 33; ++i) tokens.push_back(i * 29 % 77);
  const Doubles expected = expected_logits(weights, tokens);

  Llama model(weights, 40);
  const auto hidden = model.forward(tokens, double_attention(weights.config));
  ASSERT_EQ(hidden.size(), tokens.size() * 40);
  std::vector<float> logits(expected.size());
  model.logits(hidden.data(), static_cast<std::int64_t>(tokens.size()), logits.data());
  for (std::size_t i = 0; i < logits.size(); ++i)
    ASSERT_NEAR(logits[i], expected[i], 2e-4 * (1 + std::abs(expected[i]))) << i;
}

INSTANTIATE_TEST_SUITE_P(All, LlamaForward, testing::Combine(testing::Bool(), testing::Bool()));

TEST(Llama, FeedForwardInBlocksOfRowsIsTheSame) {
  const LlamaWeights weights = small_model(true, true);
  std::vector<std::int32_t> tokens(600, 3);  // more than a block
  Llama model(weights, 600);
  const auto hidden =
      model.forward(tokens, [](std::int64_t, const AttentionArgs& args, const Rope&) {
        std::fill_n(static_cast<float*>(args.out.data), args.out.numel(), 0.5f);
      });
  for (std::size_t row = 1; row < 600; ++row)
    for (std::size_t i = 0; i < 40; ++i) ASSERT_NEAR(hidden[row * 40 + i], hidden[i], 1e-4) << row;
}

template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Llama, RefusesWhatDoesNotFit) {
  Llama model(small_model(true, true), 4);
  const LayerAttention none = [](std::int64_t, const AttentionArgs&, const Rope&) { FAIL(); };
  const std::vector<std::int32_t> outside = {1, 77}, negative = {-1}, many(5, 0);
  EXPECT_EQ(error_of([&] { model.forward(outside, none); }),
            "tokens: expected ids from 0 to 76, got 77 at position 1");
  EXPECT_EQ(error_of([&] { model.forward(negative, none); }),
            "tokens: expected ids from 0 to 76, got -1 at position 0");
  EXPECT_EQ(error_of([&] { model.forward(many, none); }), "tokens: expected at most 4, got 5");

  LlamaWeights weights = small_model(true, true);
  weights.layers[1].up.pop_back();
  EXPECT_EQ(error_of([&] { Llama(weights, 4); }),
            "layers[1].up: expected 52 x 40 numbers, got 2079");
}

TEST(Linear, StacksPartsAndAdds) {
  for (const std::int64_t rows : {1, 3, 256, 300}) {
    const std::vector<float> a = random_floats(7 * 24, 1.0f, 1), b = random_floats(9 * 24, 1.0f, 2);
    const std::vector<float> x = random_floats(rows * 24, 1.0f, 3);
    Linear linear(24, {a, b});
    ASSERT_EQ(linear.out(), 16);
    std::vector<float> y(static_cast<std::size_t>(rows * 16), -1.0f);
    linear.apply(x.data(), rows, y.data());
    linear.apply_add(x.data(), rows, y.data());
    const Doubles xd(x.begin(), x.end());
    const Doubles ya = times(xd, a, 24), yb = times(xd, b, 24);
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      for (std::size_t i = 0; i < 7; ++i) ASSERT_NEAR(y[r * 16 + i], 2 * ya[r * 7 + i], 1e-4);
      for (std::size_t i = 0; i < 9; ++i) ASSERT_NEAR(y[r * 16 + 7 + i], 2 * yb[r * 9 + i], 1e-4);
    }
  }
  EXPECT_THROW(Linear(24, {random_floats(25, 1.0f, 1)}), InvalidArgument);
}

TEST(Rowwise, SummaryAndDivergenceOfRows) {
  for (const std::int64_t cols : {1, 5, 16, 1024, 3001}) {
    const std::vector<float> a = random_floats(cols, 4.0f, 1);
    std::vector<float> b = a;
    for (std::int64_t i = 0; i < cols; ++i)
      b[static_cast<std::size_t>(i)] += 0.01f * static_cast<float>(i % 7);
    const auto log_sum = [](const std::vector<float>& x) {
      double sum = 0;
      for (const float v : x) sum += std::exp(static_cast<double>(v));
      return std::log(sum);
    };
    const RowSummary sa = summarize(a.data(), cols), sb = summarize(b.data(), cols);
    EXPECT_NEAR(sa.log_sum_exp, log_sum(a), 1e-5);
    EXPECT_EQ(sa.argmax, std::max_element(a.begin(), a.end()) - a.begin());
    double kl = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
      kl += std::exp(a[i] - log_sum(a)) * ((a[i] - log_sum(a)) - (b[i] - log_sum(b)));
    EXPECT_NEAR(kl_divergence(a.data(), sa.log_sum_exp, b.data(), sb.log_sum_exp, cols), kl,
                1e-6 + 1e-3 * kl);
  }
}

TEST(Rowwise, LogitsOfHundredsStayFinite) {
  const std::vector<float> row = {-900.0f, 900.0f, 900.0f, 0.0f};
  const RowSummary summary = summarize(row.data(), 4);
  EXPECT_EQ(summary.argmax, 1);
  EXPECT_NEAR(summary.log_sum_exp, 900 + std::log(2.0), 1e-4);
}

TEST(Rowwise, GatedUnitAtExtremes) {
  const std::vector<float> x = {-200.0f, -1.0f, 0.0f, 200.0f, 1.0f, 2.0f, 3.0f, 4.0f};
  std::vector<float> y(4);
  silu_mul(x.data(), 1, 4, y.data());
  EXPECT_NEAR(y[0], 0.0, 1e-30);
  EXPECT_NEAR(y[1], 2 * -1 / (1 + std::exp(1.0)), 1e-6);
  EXPECT_EQ(y[2], 0.0f);
  EXPECT_EQ(y[3], 800.0f);
}

}  // namespace
}  // namespace sotto::models

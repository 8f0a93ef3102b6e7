#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "models/evaluate.h"
#include "sotto/error.h"
#include "sotto/sdpa.h"

namespace sotto::models {
namespace {

LlamaWeights random_model() {
  std::mt19937 generator(7);
  const auto random = [&](std::int64_t count, float deviation) {
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = normal(generator);
    return values;
  };
  LlamaWeights w;
  w.config = {.layers = 3,
              .hidden = 32,
              .intermediate = 48,
              .heads = 4,
              .heads_kv = 2,
              .head_dim = 16,
              .vocab = 61,
              .context_length = 64,
              .rope_theta = 1000.0f,
              .rms_eps = 1e-5f,
              .rotary_dim = 16,
              .rope_interleaved = true,
              .rope_factors = {}};
  const LlamaConfig& c = w.config;
  w.embedding = random(c.vocab * c.hidden, 0.5f);
  w.final_norm = std::vector<float>(static_cast<std::size_t>(c.hidden), 1.0f);
  for (std::int64_t i = 0; i < c.layers; ++i)
    w.layers.push_back({.attention_norm = w.final_norm,
                        .q = random(c.heads * c.head_dim * c.hidden, 0.3f),
                        .k = random(c.heads_kv * c.head_dim * c.hidden, 0.3f),
                        .v = random(c.heads_kv * c.head_dim * c.hidden, 0.3f),
                        .o = random(c.hidden * c.heads * c.head_dim, 0.3f),
                        .ffn_norm = w.final_norm,
                        .gate = random(c.intermediate * c.hidden, 0.3f),
                        .up = random(c.intermediate * c.hidden, 0.3f),
                        .down = random(c.hidden * c.intermediate, 0.3f)});
  return w;
}

std::vector<std::int32_t> some_tokens(std::int32_t count) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < count; ++i) tokens.push_back((i * i + 3 * i) % 61);
  return tokens;
}

std::string error_of(const std::vector<std::int32_t>& tokens, const EvalOptions& options) {
  Llama model(random_model(), 16);
  try {
    evaluate(model, tokens, options);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

TEST(SplitWindows, CutsWholeWindowsAndTakesShortTextsWhole) {
  const auto tokens = some_tokens(50);
  auto windows = split_windows(tokens, 16, 0);
  ASSERT_EQ(windows.size(), 3U);
  EXPECT_EQ(windows[2].data(), tokens.data() + 32);
  EXPECT_EQ(windows[2].size(), 16U);
  EXPECT_EQ(split_windows(tokens, 16, 2).size(), 2U);
  EXPECT_EQ(split_windows(tokens, 25, 9).size(), 2U);
  windows = split_windows(tokens, 1000, 4);
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_EQ(windows[0].size(), 50U);
}

TEST(Evaluate, FiguresAreWhatTheirNamesSay) {
  const auto tokens = some_tokens(40);
  Llama model(random_model(), 16);
  const auto evaluated =
      evaluate(model, tokens, {.context = 16, .max_windows = 2, .modes = {"exact", "fp8"}});
  ASSERT_EQ(evaluated.windows, 2);
  EXPECT_EQ(evaluated.evaluated_tokens, 32);

  // The same from the logits, in double.
  const auto probabilities = [&](std::size_t window, const char* mode) {
    const auto hidden =
        model.forward(std::span(tokens).subspan(window * 16, 16),
                      [&](std::int64_t, const AttentionArgs& args, const Rope& rope) {
                        sdpa(args, {.recipe = Recipe::parse(mode), .rope = rope});
                      });
    std::vector<float> logits(16 * 61);
    model.logits(hidden.data(), 16, logits.data());
    std::vector<std::vector<double>> rows;
    for (std::size_t r = 0; r < 16; ++r) {
      std::vector<double> row;
      double sum = 0;
      for (std::size_t i = 0; i < 61; ++i) {
        row.push_back(std::exp(static_cast<double>(logits[r * 61 + i])));
        sum += row.back();
      }
      for (double& p : row) p /= sum;
      rows.push_back(row);
    }
    return rows;
  };
  double total = 0, kl = 0, same = 0;
  for (std::size_t w = 0; w < 2; ++w) {
    const auto exact = probabilities(w, "exact"), fp8 = probabilities(w, "fp8");
    double nll = 0;
    for (std::size_t r = 0; r < 16; ++r) {
      if (r < 15) nll -= std::log(exact[r][static_cast<std::size_t>(tokens[w * 16 + r + 1])]);
      for (std::size_t i = 0; i < 61; ++i)
        kl += exact[r][i] * std::log(exact[r][i] / fp8[r][i]) / 32;
      same += (std::max_element(exact[r].begin(), exact[r].end()) - exact[r].begin() ==
               std::max_element(fp8[r].begin(), fp8[r].end()) - fp8[r].begin()) /
              32.0;
    }
    EXPECT_NEAR(evaluated.results[0].window_perplexity[w] / std::exp(nll / 15), 1, 1e-5);
    total += nll;
  }
  EXPECT_NEAR(evaluated.results[0].perplexity / std::exp(total / 30), 1, 1e-5);
  EXPECT_NEAR(evaluated.results[1].kl, kl, 1e-4 * kl + 1e-8);
  EXPECT_GT(kl, 1e-6);
  EXPECT_DOUBLE_EQ(evaluated.results[1].top1, same);
  EXPECT_GT(evaluated.results[1].perplexity_change_error, 0);
  EXPECT_NEAR(evaluated.results[1].perplexity_change,
              evaluated.results[1].perplexity / evaluated.results[0].perplexity - 1, 1e-9);
  for (const double db : evaluated.results[1].layer_sqnr_db) {
    EXPECT_GT(db, 15);
    EXPECT_LT(db, 50);
  }
}

TEST(Evaluate, ExactIsTheBaselineWhetherListedOrNot) {
  const auto tokens = some_tokens(16);
  Llama model(random_model(), 16);
  const auto with = evaluate(model, tokens, {.context = 16, .modes = {"int8qk", "exact", "exact"}});
  const auto without = evaluate(model, tokens, {.context = 16, .modes = {"int8qk"}});
  ASSERT_EQ(with.results.size(), 3U);
  ASSERT_EQ(without.results.size(), 1U);
  EXPECT_EQ(with.results[0].kl, without.results[0].kl);
  EXPECT_EQ(with.results[0].layer_sqnr_db, without.results[0].layer_sqnr_db);
  for (const std::size_t exact : {1U, 2U}) {
    EXPECT_EQ(with.results[exact].mode, "exact");
    EXPECT_NEAR(with.results[exact].kl, 0, 1e-9);
    EXPECT_EQ(with.results[exact].top1, 1);
    for (const double db : with.results[exact].layer_sqnr_db) EXPECT_TRUE(std::isnan(db));
  }
}

TEST(Evaluate, SkippedLayersAreExact) {
  const auto tokens = some_tokens(16);
  Llama model(random_model(), 16);
  const auto some =
      evaluate(model, tokens, {.context = 16, .modes = {"fp8"}, .skip_first = 1, .skip_last = 1});
  EXPECT_TRUE(std::isnan(some.results[0].layer_sqnr_db[0]));
  EXPECT_FALSE(std::isnan(some.results[0].layer_sqnr_db[1]));
  EXPECT_TRUE(std::isnan(some.results[0].layer_sqnr_db[2]));
  EXPECT_GT(some.results[0].kl, 0);
  const auto all =
      evaluate(model, tokens, {.context = 16, .modes = {"fp8"}, .skip_first = 2, .skip_last = 1});
  EXPECT_NEAR(all.results[0].kl, 0, 1e-9);
  EXPECT_EQ(all.results[0].perplexity_change, 0);
}

TEST(Evaluate, ReportsProgressToTheEnd) {
  const auto tokens = some_tokens(32);
  Llama model(random_model(), 16);
  std::int64_t last = 0, calls = 0;
  evaluate(
      model, tokens,
      {.context = 16, .modes = {"fp8"}, .progress = [&](std::int64_t done, std::int64_t total) {
         EXPECT_EQ(done, ++calls);
         EXPECT_EQ(total, 2 * 2 * 3);  // windows, exact and fp8, layers
         last = done;
       }});
  EXPECT_EQ(last, 12);
}

TEST(Evaluate, RefusesWhatDoesNotFit) {
  const auto tokens = some_tokens(40);
  EXPECT_EQ(error_of(tokens, {.context = 1}), "context: expected at least 2 tokens, got 1");
  EXPECT_EQ(error_of(tokens, {.context = -3}), "context: expected at least 2 tokens, got -3");
  EXPECT_EQ(error_of(tokens, {.context = 16, .max_windows = -1}),
            "windows: expected 0 (all) or more, got -1");
  EXPECT_EQ(error_of({}, {.context = 16}),
            "tokens: expected at least 2, so that there is one to predict, got 0");
  EXPECT_EQ(error_of(tokens, {.context = 16, .modes = {}}), "modes: expected at least one");
  EXPECT_EQ(error_of(tokens, {.context = 16, .skip_first = 2, .skip_last = 2}),
            "skip_first, skip_last: expected at most the model's 3 layers together, got 2 and 2");
  EXPECT_EQ(error_of(tokens, {.context = 16, .skip_last = -1}),
            "skip_last: expected 0 or more layers, got -1");
  EXPECT_NE(error_of(tokens, {.context = 16, .modes = {"fp9"}}).find("int8qk"), std::string::npos);
  EXPECT_NE(error_of(tokens, {.context = 16, .backend = "abacus"}).find("abacus"),
            std::string::npos);
  EXPECT_EQ(error_of(tokens, {.context = 17}), "tokens: expected at most 16, got 17");
}

}  // namespace
}  // namespace sotto::models

#include "models/llama.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "models/rowwise.h"
#include "sotto/error.h"

namespace sotto::models {
namespace {

constexpr std::int64_t kRowBlock = 512;

std::size_t elements(std::int64_t rows, std::int64_t cols) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

void check_size(const std::string& name, const std::vector<float>& values, std::int64_t rows,
                std::int64_t cols) {
  if (values.size() != elements(rows, cols))
    throw InvalidArgument(name, "expected " + std::to_string(rows) + " x " + std::to_string(cols) +
                                    " numbers, got " + std::to_string(values.size()));
}

// Checks all sizes; what it returns is the first thing that Llama's constructor initialises.
const LlamaConfig& checked_config(const LlamaWeights& weights) {
  const LlamaConfig& c = weights.config;
  if (static_cast<std::int64_t>(weights.layers.size()) != c.layers)
    throw InvalidArgument("layers", "expected " + std::to_string(c.layers) + ", got " +
                                        std::to_string(weights.layers.size()));
  check_size("embedding", weights.embedding, c.vocab, c.hidden);
  check_size("final_norm", weights.final_norm, 1, c.hidden);
  if (!weights.output.empty()) check_size("output", weights.output, c.vocab, c.hidden);
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    const LlamaLayer& layer = weights.layers[i];
    const std::string prefix = "layers[" + std::to_string(i) + "].";
    check_size(prefix + "attention_norm", layer.attention_norm, 1, c.hidden);
    check_size(prefix + "q", layer.q, c.heads * c.head_dim, c.hidden);
    check_size(prefix + "k", layer.k, c.heads_kv * c.head_dim, c.hidden);
    check_size(prefix + "v", layer.v, c.heads_kv * c.head_dim, c.hidden);
    check_size(prefix + "o", layer.o, c.hidden, c.heads * c.head_dim);
    check_size(prefix + "ffn_norm", layer.ffn_norm, 1, c.hidden);
    check_size(prefix + "gate", layer.gate, c.intermediate, c.hidden);
    check_size(prefix + "up", layer.up, c.intermediate, c.hidden);
    check_size(prefix + "down", layer.down, c.hidden, c.intermediate);
  }
  if (!c.rope_factors.empty() &&
      static_cast<std::int64_t>(c.rope_factors.size()) != c.rotary_dim / 2)
    throw InvalidArgument("rope_factors", "expected " + std::to_string(c.rotary_dim / 2) +
                                              " numbers, got " +
                                              std::to_string(c.rope_factors.size()));
  return c;
}

}  // namespace

Llama::Llama(LlamaWeights weights, std::int64_t max_tokens)
    : config_(checked_config(weights)),
      max_tokens_(max_tokens),
      final_norm_(std::move(weights.final_norm)),
      output_(config_.hidden, {weights.output.empty() ? weights.embedding : weights.output}) {
  weights.output = {};
  embedding_ = std::move(weights.embedding);
  for (LlamaLayer& layer : weights.layers) {
    layers_.push_back({std::move(layer.attention_norm), std::move(layer.ffn_norm),
                       Linear(config_.hidden, {layer.q, layer.k, layer.v}),
                       Linear(config_.heads * config_.head_dim, {layer.o}),
                       Linear(config_.hidden, {layer.gate, layer.up}),
                       Linear(config_.intermediate, {layer.down})});
    layer = {};  // so that only one layer is in memory twice
  }
  make_rope();

  const std::int64_t block = std::min(max_tokens, kRowBlock);
  residual_.resize(elements(max_tokens, config_.hidden));
  normed_.resize(elements(max_tokens, config_.hidden));
  qkv_.resize(elements(max_tokens, (config_.heads + 2 * config_.heads_kv) * config_.head_dim));
  attended_.resize(elements(max_tokens, config_.heads * config_.head_dim));
  gate_up_.resize(elements(block, 2 * config_.intermediate));
  activated_.resize(elements(block, config_.intermediate));
}

void Llama::make_rope() {
  const std::int64_t pairs = config_.rotary_dim / 2;
  cos_.resize(elements(max_tokens_, pairs));
  sin_.resize(elements(max_tokens_, pairs));
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    double frequency =
        std::pow(static_cast<double>(config_.rope_theta),
                 -2.0 * static_cast<double>(pair) / static_cast<double>(config_.rotary_dim));
    if (!config_.rope_factors.empty())
      frequency /= config_.rope_factors[static_cast<std::size_t>(pair)];
    for (std::int64_t position = 0; position < max_tokens_; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      cos_[elements(position, pairs) + static_cast<std::size_t>(pair)] =
          static_cast<float>(std::cos(angle));
      sin_[elements(position, pairs) + static_cast<std::size_t>(pair)] =
          static_cast<float>(std::sin(angle));
    }
  }
  rope_ = {.cos = Tensor(cos_.data(), {max_tokens_, pairs}),
           .sin = Tensor(sin_.data(), {max_tokens_, pairs}),
           .interleaved = config_.rope_interleaved,
           .rotary_dim = config_.rotary_dim};
}

std::span<const float> Llama::forward(std::span<const std::int32_t> tokens,
                                      const LayerAttention& attention) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count > max_tokens_)
    throw InvalidArgument("tokens", "expected at most " + std::to_string(max_tokens_) + ", got " +
                                        std::to_string(count));
  embed(tokens);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    attend(layer, count, attention);
    feed_forward(layers_[static_cast<std::size_t>(layer)], count);
  }
  rms_norm(residual_.data(), final_norm_.data(), config_.rms_eps, count, config_.hidden,
           normed_.data());
  return {normed_.data(), elements(count, config_.hidden)};
}

void Llama::embed(std::span<const std::int32_t> tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= config_.vocab)
      throw InvalidArgument(
          "tokens", "expected ids from 0 to " + std::to_string(config_.vocab - 1) + ", got " +
                        std::to_string(tokens[i]) + " at position " + std::to_string(i));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    std::copy_n(embedding_.data() + elements(tokens[i], config_.hidden), config_.hidden,
                residual_.data() + i * static_cast<std::size_t>(config_.hidden));
}

void Llama::attend(std::int64_t index, std::int64_t tokens, const LayerAttention& attention) {
  Layer& layer = layers_[static_cast<std::size_t>(index)];
  rms_norm(residual_.data(), layer.attention_norm.data(), config_.rms_eps, tokens, config_.hidden,
           normed_.data());
  layer.qkv.apply(normed_.data(), tokens, qkv_.data());

  const std::int64_t dim = config_.head_dim;
  const std::int64_t row = layer.qkv.out();
  const auto heads_from = [&](std::int64_t first, std::int64_t heads) {
    return Tensor(qkv_.data() + first * dim, Dtype::f32, {1, tokens, heads, dim},
                  {tokens * row, row, dim, 1});
  };
  const AttentionArgs args{.q = heads_from(0, config_.heads),
                           .k = heads_from(config_.heads, config_.heads_kv),
                           .v = heads_from(config_.heads + config_.heads_kv, config_.heads_kv),
                           .out = Tensor(attended_.data(), {1, tokens, config_.heads, dim}),
                           .mask = Mask::causal()};
  attention(index, args, rope_);
  layer.o.apply_add(attended_.data(), tokens, residual_.data());
}

void Llama::feed_forward(Layer& layer, std::int64_t tokens) {
  const std::int64_t hidden = config_.hidden;
  for (std::int64_t first = 0; first < tokens; first += kRowBlock) {
    const std::int64_t rows = std::min(kRowBlock, tokens - first);
    float* residual = residual_.data() + first * hidden;
    rms_norm(residual, layer.ffn_norm.data(), config_.rms_eps, rows, hidden, normed_.data());
    layer.gate_up.apply(normed_.data(), rows, gate_up_.data());
    silu_mul(gate_up_.data(), rows, config_.intermediate, activated_.data());
    layer.down.apply_add(activated_.data(), rows, residual);
  }
}

void Llama::logits(const float* hidden, std::int64_t rows, float* out) {
  output_.apply(hidden, rows, out);
}

}  // namespace sotto::models

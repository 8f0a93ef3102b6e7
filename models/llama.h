// Forward pass of a Llama-architecture language model in fp32, with attention left to the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "models/linear.h"
#include "models/llama_weights.h"
#include "sotto/attention.h"
#include "sotto/quantize.h"

namespace sotto::models {

// Attention of one layer: reads args.q, k and v (before RoPE), writes args.out. All f32
// [1, tokens, heads, head_dim]; the mask is causal. `rope` is to be applied to q and k.
using LayerAttention =
    std::function<void(std::int64_t layer, const AttentionArgs& args, const Rope& rope)>;

class Llama {
 public:
  // Packs the weights for the matrix products and allocates buffers for max_tokens, once.
  // Throws InvalidArgument where a weight's size does not fit the configuration.
  Llama(LlamaWeights weights, std::int64_t max_tokens);

  const LlamaConfig& config() const { return config_; }
  std::int64_t max_tokens() const { return max_tokens_; }

  // The hidden states that the output head reads, [tokens, hidden]; valid until the next call.
  // Throws InvalidArgument for more than max_tokens and for ids outside the vocabulary.
  std::span<const float> forward(std::span<const std::int32_t> tokens,
                                 const LayerAttention& attention);

  // out[rows, vocab] = the output head on `rows` hidden states.
  void logits(const float* hidden, std::int64_t rows, float* out);

 private:
  struct Layer {
    std::vector<float> attention_norm, ffn_norm;
    Linear qkv, o, gate_up, down;
  };

  void embed(std::span<const std::int32_t> tokens);
  void attend(std::int64_t layer, std::int64_t tokens, const LayerAttention& attention);
  void feed_forward(Layer& layer, std::int64_t tokens);
  void make_rope();

  LlamaConfig config_;
  std::int64_t max_tokens_;
  std::vector<float> embedding_, final_norm_;
  std::vector<Layer> layers_;
  Linear output_;

  std::vector<float> cos_, sin_;  // [max_tokens, rotary_dim/2]
  Rope rope_;

  // Activations. The residual stream and the normed states hold all tokens; the feed-forward part
  // works on a block of rows at a time, which stays in the cache.
  std::vector<float> residual_, normed_, qkv_, attended_, gate_up_, activated_;
};

}  // namespace sotto::models

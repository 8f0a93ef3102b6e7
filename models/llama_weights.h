// A model of the Llama architecture in memory, whichever kind of file it came from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/stored_tensor.h"

namespace sotto::models {

struct LlamaConfig {
  std::int64_t layers, hidden, intermediate, heads, heads_kv, head_dim, vocab, context_length;
  float rope_theta, rms_eps;
  std::int64_t rotary_dim;  // even, <= head_dim
  bool rope_interleaved;    // pairs (0, 1), (2, 3), ... as GGUF stores Q and K; false: halves
  std::vector<float> rope_factors;  // empty, or [rotary_dim / 2]: each frequency is divided by it
};

// All fp32, row-major [out, in], for y = W x.
struct LlamaLayer {
  std::vector<float> attention_norm;  // [hidden]
  std::vector<float> q;               // [heads * head_dim, hidden]
  std::vector<float> k, v;            // [heads_kv * head_dim, hidden]
  std::vector<float> o;               // [hidden, heads * head_dim]
  std::vector<float> ffn_norm;        // [hidden]
  std::vector<float> gate, up;        // [intermediate, hidden]
  std::vector<float> down;            // [hidden, intermediate]
};

struct LlamaWeights {
  LlamaConfig config;
  std::vector<float> embedding;  // [vocab, hidden]
  std::vector<LlamaLayer> layers;
  std::vector<float> final_norm;  // [hidden]
  std::vector<float> output;      // [vocab, hidden]; empty: tied to the embedding
};

// What a kind of file calls the tensors. A layer's is layer_prefix + index + '.' + name.
struct LlamaTensorNames {
  std::string embedding, final_norm, output, layer_prefix;
  std::string attention_norm, q, k, v, o, ffn_norm, gate, up, down;
  std::string unused;  // tensors whose name ends so may be there and are not read
};

// What a kind of file calls the members of its configuration.
struct LlamaConfigNames {
  std::string layers, hidden, intermediate, heads, heads_kv, head_dim, vocab, context_length;
  std::string rope_theta, rms_eps, rotary_dim;
};

// Refuses a configuration that no model can have: sizes out of range, heads that do not divide, a
// rotary base that is no positive number.
void check_config(const LlamaConfig& config, const std::string& file,
                  const LlamaConfigNames& names);

// Refuses factors for LlamaConfig::rope_factors that are no positive numbers.
void check_rope_factors(const std::vector<float>& factors, const std::string& file,
                        const std::string& field);

// Takes a checked configuration's weights out of a file's tensors, in fp32. Every tensor must be
// there with its shape and finite values, and none may be left over: what the forward pass does
// not use (a bias, an expert) would make its results wrong without a sign. `tied`: the output
// matrix is the embedding, even if the file has one.
LlamaWeights assemble_llama(const LlamaConfig& config, const std::string& file,
                            const TensorMap& tensors, const LlamaTensorNames& names, bool tied);

}  // namespace sotto::models

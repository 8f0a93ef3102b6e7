#include "models/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sotto::models {
namespace {

const LlamaConfigNames kNames{
    .layers = "num_hidden_layers",
    .hidden = "hidden_size",
    .intermediate = "intermediate_size",
    .heads = "num_attention_heads",
    .heads_kv = "num_key_value_heads",
    .head_dim = "head_dim",
    .vocab = "vocab_size",
    .context_length = "max_position_embeddings",
    .rope_theta = "rope_theta",
    .rms_eps = "rms_norm_eps",
    .rotary_dim = "head_dim",
};

void check_supported(const JsonView& config) {
  const JsonView type = config.at("model_type");
  if (type.text() != "llama") {
    type.fail(excerpt(type.text()) + " is not supported (supported: \"llama\")");
  }
  if (const auto act = config.find("hidden_act"); act && act->text() != "silu") {
    act->fail(excerpt(act->text()) + " is not supported (supported: \"silu\")");
  }
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    if (const auto on = config.find(bias); on && on->boolean()) on->fail("true is not supported");
  }
  if (const auto quantization = config.find("quantization_config")) {
    quantization->fail("quantised checkpoints are not supported; use F32, F16 or BF16, or GGUF");
  }
}

// Frequencies below the low bound are divided by `factor`, those above the high bound stay, and
// between them the division fades in (Llama 3.1, "llama3" of transformers' modeling_rope_utils).
std::vector<float> llama3_factors(const JsonView& rope, const LlamaConfig& config) {
  const double factor = rope.at("factor").number();
  const double low = rope.at("low_freq_factor").number();
  const double high = rope.at("high_freq_factor").number();
  const JsonView trained = rope.at("original_max_position_embeddings");
  const double length = trained.number();
  if (!(factor > 0)) rope.at("factor").fail("must be positive");
  if (!(low > 0 && high > low)) {
    rope.at("high_freq_factor").fail("must be above low_freq_factor, which must be positive");
  }
  if (!(length > 0)) trained.fail("must be positive");

  std::vector<float> factors;
  for (std::int64_t i = 0; i < config.rotary_dim / 2; ++i) {
    const double frequency =
        std::pow(static_cast<double>(config.rope_theta),
                 -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dim));
    const double turns = length * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    factors.push_back(static_cast<float>(1 / (kept + (1 - kept) / factor)));
  }
  return factors;
}

std::vector<float> rope_factors(const JsonView& rope, const LlamaConfig& config) {
  if (const auto partial = rope.find("partial_rotary_factor"); partial && partial->number() != 1) {
    partial->fail("only 1 is supported");
  }
  auto type = rope.find("rope_type");
  if (!type) type = rope.find("type");  // until 2024
  if (!type || type->text() == "default") return {};
  if (type->text() == "llama3") return llama3_factors(rope, config);
  if (type->text() == "linear") {
    return std::vector<float>(config.rotary_dim / 2,
                              static_cast<float>(rope.at("factor").number()));
  }
  type->fail(excerpt(type->text()) +
             " is not supported (supported: \"default\", \"linear\", \"llama3\")");
}

}  // namespace

HfConfig read_hf_config(const JsonView& config) {
  check_supported(config);
  const auto integer = [&](const std::string& name) { return config.at(name).integer(); };
  const auto integer_or = [&](const std::string& name, std::int64_t otherwise) {
    const auto value = config.find(name);
    return value ? value->integer() : otherwise;
  };
  const auto number_or = [](const JsonView& object, const std::string& name, double otherwise) {
    const auto value = object.find(name);
    return static_cast<float>(value ? value->number() : otherwise);
  };

  LlamaConfig llama{};
  llama.layers = integer(kNames.layers);
  llama.hidden = integer(kNames.hidden);
  llama.intermediate = integer(kNames.intermediate);
  llama.heads = integer(kNames.heads);
  llama.heads_kv = integer_or(kNames.heads_kv, llama.heads);
  llama.vocab = integer(kNames.vocab);
  // What transformers takes where the file is silent.
  llama.context_length = integer_or(kNames.context_length, 2048);
  llama.rms_eps = number_or(config, kNames.rms_eps, 1e-6);
  if (const auto head_dim = config.find(kNames.head_dim)) {
    llama.head_dim = head_dim->integer();
  } else if (llama.heads > 0 && llama.hidden % llama.heads == 0) {
    llama.head_dim = llama.hidden / llama.heads;
  } else {
    config.at(kNames.heads)
        .fail(fmt::format("must divide hidden_size = {}, got {}", llama.hidden, llama.heads));
  }
  llama.rotary_dim = llama.head_dim;
  llama.rope_interleaved = false;

  // Since transformers 5 the base stands beside the scaling.
  auto rope = config.find("rope_parameters");
  const bool base_in_rope = rope && rope->find(kNames.rope_theta);
  llama.rope_theta = number_or(base_in_rope ? *rope : config, kNames.rope_theta, 10000.0);
  check_config(llama, config.file(), kNames);
  if (!rope) rope = config.find("rope_scaling");
  if (rope) {
    llama.rope_factors = rope_factors(*rope, llama);
    check_rope_factors(llama.rope_factors, config.file(), rope->field());
  }

  const auto tied = config.find("tie_word_embeddings");
  return {llama, tied && tied->boolean()};
}

}  // namespace sotto::models

#include "models/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "models/file_error.h"
#include "models/gguf.h"
#include "models/utf8.h"

namespace sotto::models {
namespace {

constexpr std::string_view kRopeFactors = "rope_freqs.weight";

const LlamaConfigNames kConfigNames{
    .layers = "llama.block_count",
    .hidden = "llama.embedding_length",
    .intermediate = "llama.feed_forward_length",
    .heads = "llama.attention.head_count",
    .heads_kv = "llama.attention.head_count_kv",
    .head_dim = "llama.attention.key_length",
    .vocab = "llama.vocab_size",
    .context_length = "llama.context_length",
    .rope_theta = "llama.rope.freq_base",
    .rms_eps = "llama.attention.layer_norm_rms_epsilon",
    .rotary_dim = "llama.rope.dimension_count",
};

const LlamaTensorNames kTensorNames{
    .embedding = "token_embd.weight",
    .final_norm = "output_norm.weight",
    .output = "output.weight",
    .layer_prefix = "blk.",
    .attention_norm = "attn_norm.weight",
    .q = "attn_q.weight",
    .k = "attn_k.weight",
    .v = "attn_v.weight",
    .o = "attn_output.weight",
    .ffn_norm = "ffn_norm.weight",
    .gate = "ffn_gate.weight",
    .up = "ffn_up.weight",
    .down = "ffn_down.weight",
    .unused = std::string(kRopeFactors),
};

template <typename T>
T required(const GgufFile& file, const std::string& key, const std::optional<T>& value) {
  if (!value) throw FileError(file.name(), key, "the key is missing");
  return *value;
}

void check_architecture(const GgufFile& file) {
  const std::string key = "general.architecture";
  const std::string architecture = required(file, key, file.text(key));
  if (architecture != "llama") {
    throw FileError(file.name(), key,
                    excerpt(architecture) + " is not supported (supported: \"llama\")");
  }
  if (file.integer("llama.expert_count").value_or(0) != 0) {
    throw FileError(file.name(), "llama.expert_count", "mixtures of experts are not supported");
  }
}

// The frequencies of Llama 3.1 are scaled by a tensor, those of older models by one number.
std::vector<float> rope_factors(const GgufFile& file, std::int64_t rotary_dim) {
  std::vector<float> factors;
  if (const auto found = file.tensors().find(kRopeFactors); found != file.tensors().end()) {
    if (found->second.shape != std::vector{rotary_dim / 2}) {
      throw FileError(file.name(), found->first,
                      fmt::format("shape must be [{}], got [{}]", rotary_dim / 2,
                                  fmt::join(found->second.shape, ", ")));
    }
    factors = to_float(found->second);
    check_rope_factors(factors, file.name(), found->first);
  }
  const std::string type_key = "llama.rope.scaling.type";
  const std::string type = file.text(type_key).value_or("linear");
  if (type == "none") return factors;
  if (type != "linear") {
    throw FileError(file.name(), type_key,
                    excerpt(type) + " is not supported (supported: \"none\", \"linear\")");
  }
  const std::string old_key = "llama.rope.scale_linear";  // before 2023-10
  const std::string key = file.has(old_key) ? old_key : "llama.rope.scaling.factor";
  const auto scale = static_cast<float>(file.real(key).value_or(0));
  if (scale == 0) return factors;  // not scaled
  factors.resize(rotary_dim / 2, 1.0f);
  for (float& factor : factors) factor *= scale;
  check_rope_factors(factors, file.name(), key);
  return factors;
}

LlamaConfig read_config(const GgufFile& file) {
  const auto integer = [&](const std::string& key) {
    return required(file, key, file.integer(key));
  };
  LlamaConfig config{};
  config.layers = integer(kConfigNames.layers);
  config.hidden = integer(kConfigNames.hidden);
  config.intermediate = integer(kConfigNames.intermediate);
  config.heads = integer(kConfigNames.heads);
  config.heads_kv = file.integer(kConfigNames.heads_kv).value_or(config.heads);
  config.context_length = integer(kConfigNames.context_length);
  if (const auto head_dim = file.integer(kConfigNames.head_dim)) {
    config.head_dim = *head_dim;
  } else if (config.heads > 0 && config.hidden % config.heads == 0) {
    config.head_dim = config.hidden / config.heads;
  } else {
    throw FileError(file.name(), kConfigNames.heads,
                    fmt::format("must divide {} = {}, got {}", kConfigNames.hidden, config.hidden,
                                config.heads));
  }
  const std::string value_key = "llama.attention.value_length";
  if (const auto dim_v = file.integer(value_key); dim_v && *dim_v != config.head_dim) {
    throw FileError(file.name(), value_key,
                    fmt::format("must be the head size {}, got {}", config.head_dim, *dim_v));
  }
  // The embedding has the last word on the size of the vocabulary: the key is optional.
  const auto embedding = file.tensors().find(kTensorNames.embedding);
  const auto stated_vocab = file.integer(kConfigNames.vocab);
  config.vocab = stated_vocab || embedding == file.tensors().end()
                     ? required(file, kConfigNames.vocab, stated_vocab)
                     : embedding->second.shape.front();
  config.rope_theta = static_cast<float>(file.real(kConfigNames.rope_theta).value_or(10000.0));
  config.rms_eps =
      static_cast<float>(required(file, kConfigNames.rms_eps, file.real(kConfigNames.rms_eps)));
  config.rotary_dim = file.integer(kConfigNames.rotary_dim).value_or(config.head_dim);
  config.rope_interleaved = true;
  check_config(config, file.name(), kConfigNames);
  config.rope_factors = rope_factors(file, config.rotary_dim);
  return config;
}

std::optional<Tokenizer> read_tokenizer(const GgufFile& file, std::int64_t vocab) {
  const std::string model_key = "tokenizer.ggml.model";
  const std::string pre_key = "tokenizer.ggml.pre";
  const auto model = file.text(model_key);
  if (!model) return std::nullopt;
  if (*model != "gpt2") {
    throw FileError(file.name(), model_key,
                    excerpt(*model) +
                        " is not supported (supported: \"gpt2\", byte-level BPE); give "
                        "a file of token ids instead of a text");
  }
  TokenizerDefinition definition{.file = file.name(),
                                 .tokens_field = "tokenizer.ggml.tokens",
                                 .merges_field = "tokenizer.ggml.merges"};
  definition.tokens = required(file, definition.tokens_field, file.texts(definition.tokens_field));
  if (static_cast<std::int64_t>(definition.tokens.size()) > vocab) {
    throw FileError(file.name(), definition.tokens_field,
                    fmt::format("has {} tokens, but the embedding has only {} rows",
                                definition.tokens.size(), vocab));
  }
  for (const std::string& merge :
       required(file, definition.merges_field, file.texts(definition.merges_field))) {
    const std::size_t space = merge.find(' ');
    definition.merges.emplace_back(merge.substr(0, space),
                                   space == std::string::npos ? "" : merge.substr(space + 1));
  }
  try {
    // llama.cpp reads files from before this key existed as "default", too.
    NamedPreTokenizer named = named_pre_tokenizer(file.text(pre_key).value_or("default"));
    definition.pre_tokenizer = std::move(named.pre_tokenizer);
    definition.ignore_merges = named.ignore_merges;
  } catch (const FileError&) {
    throw;
  } catch (const Error& error) {
    throw FileError(file.name(), pre_key, error.what());
  }
  return Tokenizer(std::move(definition));
}

// The model's name, unless it would not show well.
std::string display_name(const GgufFile& file, const std::filesystem::path& path) {
  const std::string name = file.text("general.name").value_or("");
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  const bool shows_well = !name.empty() && name.size() <= 200 && !repaired_utf8(name) &&
                          std::none_of(name.begin(), name.end(), is_control);
  return shows_well ? name : path.stem().string();
}

}  // namespace

Model load_gguf(const std::filesystem::path& path, LoadTokenizer tokenizer) {
  const GgufFile file(path);
  check_architecture(file);
  const LlamaConfig config = read_config(file);
  Model model{.name = display_name(file, path), .weights = {}, .tokenizer = {}};
  if (tokenizer == LoadTokenizer::yes) model.tokenizer = read_tokenizer(file, config.vocab);
  const bool tied = !file.tensors().contains(kTensorNames.output);
  model.weights = assemble_llama(config, file.name(), file.tensors(), kTensorNames, tied);
  return model;
}

}  // namespace sotto::models

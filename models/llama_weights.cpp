#include "models/llama_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include "models/file_error.h"

namespace sotto::models {
namespace {

// Larger than any model, and small enough that no product of two overflows.
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxHeadDim = 4096;
constexpr std::int64_t kMaxCount = (std::int64_t{1} << 31) - 1;  // of tokens: ids are 32 bit

bool all_finite(const std::vector<float>& values) {
  // Integers, so that the compiler can vectorise the search for the greatest magnitude.
  std::uint32_t greatest = 0;
  for (const float value : values) {
    greatest = std::max(greatest, std::bit_cast<std::uint32_t>(value) & 0x7fffffffu);
  }
  return greatest < 0x7f800000u;
}

class Assembler {
 public:
  Assembler(const std::string& file, const TensorMap& tensors) : file_(file), tensors_(tensors) {}

  std::vector<float> take(const std::string& name, const std::vector<std::int64_t>& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw FileError(file_, name, "the tensor is missing");
    const StoredTensor& tensor = found->second;
    if (tensor.shape != shape) {
      throw FileError(tensor.file, name,
                      fmt::format("shape (outermost dimension first) must be [{}], got [{}]",
                                  fmt::join(shape, ", "), fmt::join(tensor.shape, ", ")));
    }
    taken_.insert(name);
    std::vector<float> values = to_float(tensor);
    if (!all_finite(values)) {
      throw FileError(tensor.file, name, "has a value that is NaN or infinite");
    }
    return values;
  }

  void ignore(const std::string& name) { taken_.insert(name); }

  void check_none_left(const std::string& unused) const {
    for (const auto& [name, tensor] : tensors_) {
      if (taken_.contains(name) || name.ends_with(unused)) continue;
      throw FileError(tensor.file, name,
                      "the Llama architecture as supported here has no such tensor");
    }
  }

 private:
  const std::string& file_;
  const TensorMap& tensors_;
  std::set<std::string> taken_;
};

}  // namespace

void check_config(const LlamaConfig& config, const std::string& file,
                  const LlamaConfigNames& names) {
  const auto check_range = [&](const std::string& field, std::int64_t value, std::int64_t max) {
    if (value < 1 || value > max) {
      throw FileError(file, field, fmt::format("must be in [1, {}], got {}", max, value));
    }
  };
  check_range(names.layers, config.layers, kMaxSize);
  check_range(names.hidden, config.hidden, kMaxSize);
  check_range(names.intermediate, config.intermediate, kMaxSize);
  check_range(names.heads, config.heads, kMaxSize);
  check_range(names.heads_kv, config.heads_kv, kMaxSize);
  check_range(names.head_dim, config.head_dim, kMaxHeadDim);
  check_range(names.vocab, config.vocab, kMaxCount);
  check_range(names.context_length, config.context_length, kMaxCount);
  if (config.heads % config.heads_kv != 0) {
    throw FileError(
        file, names.heads_kv,
        fmt::format("must divide the {} query heads, got {}", config.heads, config.heads_kv));
  }
  check_range(names.rotary_dim, config.rotary_dim, config.head_dim);
  if (config.rotary_dim % 2 != 0) {
    throw FileError(file, names.rotary_dim, fmt::format("must be even, got {}", config.rotary_dim));
  }
  if (!std::isfinite(config.rope_theta) || config.rope_theta <= 0) {
    throw FileError(file, names.rope_theta,
                    fmt::format("must be a positive fp32 number, got {}", config.rope_theta));
  }
  if (!std::isfinite(config.rms_eps) || config.rms_eps < 0) {
    throw FileError(file, names.rms_eps,
                    fmt::format("must be a fp32 number of at least 0, got {}", config.rms_eps));
  }
}

void check_rope_factors(const std::vector<float>& factors, const std::string& file,
                        const std::string& field) {
  for (const float factor : factors) {
    if (std::isfinite(factor) && factor > 0) continue;
    throw FileError(file, field,
                    fmt::format("scales a rotary frequency by {}, which must be a positive fp32 "
                                "number",
                                factor));
  }
}

LlamaWeights assemble_llama(const LlamaConfig& config, const std::string& file,
                            const TensorMap& tensors, const LlamaTensorNames& names, bool tied) {
  const std::int64_t hidden = config.hidden;
  const std::int64_t intermediate = config.intermediate;
  const std::int64_t width_q = config.heads * config.head_dim;
  const std::int64_t width_kv = config.heads_kv * config.head_dim;

  Assembler assembler(file, tensors);
  LlamaWeights weights{
      .config = config, .embedding = {}, .layers = {}, .final_norm = {}, .output = {}};
  weights.embedding = assembler.take(names.embedding, {config.vocab, hidden});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const auto take = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
      return assembler.take(fmt::format("{}{}.{}", names.layer_prefix, i, name), shape);
    };
    weights.layers.push_back({
        .attention_norm = take(names.attention_norm, {hidden}),
        .q = take(names.q, {width_q, hidden}),
        .k = take(names.k, {width_kv, hidden}),
        .v = take(names.v, {width_kv, hidden}),
        .o = take(names.o, {hidden, width_q}),
        .ffn_norm = take(names.ffn_norm, {hidden}),
        .gate = take(names.gate, {intermediate, hidden}),
        .up = take(names.up, {intermediate, hidden}),
        .down = take(names.down, {hidden, intermediate}),
    });
  }
  weights.final_norm = assembler.take(names.final_norm, {hidden});
  if (tied) {
    assembler.ignore(names.output);
  } else {
    weights.output = assembler.take(names.output, {config.vocab, hidden});
  }
  assembler.check_none_left(names.unused);
  return weights;
}

}  // namespace sotto::models

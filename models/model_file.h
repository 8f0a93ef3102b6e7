// The one door to models on disk.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "models/llama_weights.h"
#include "models/tokenizer.h"

namespace sotto::models {

struct Model {
  std::string name;
  LlamaWeights weights;
  std::optional<Tokenizer> tokenizer;  // absent: the file carries none, or it was not asked for
};

enum class LoadTokenizer { yes, no };

// Reads a model of the Llama architecture:
//   a .gguf file (version 2 or 3, little-endian; F32, F16, BF16, Q8_0, Q4_0, Q4_1), or
//   a .safetensors file (F32, F16, BF16) with config.json and, if any, tokenizer.json beside it, or
//   a folder with config.json and model.safetensors, the shards that model.safetensors.index.json
//   names, or a single *.safetensors.
// Everything is converted to fp32. LoadTokenizer::no does not look at the file's tokenizer, for a
// caller that has token ids. Throws FileError: nothing in a file makes it crash or allocate out of
// proportion to the file.
Model load_model(const std::filesystem::path& path, LoadTokenizer tokenizer = LoadTokenizer::yes);

}  // namespace sotto::models

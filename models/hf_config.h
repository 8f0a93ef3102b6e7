// config.json of a Llama model from Hugging Face.
#pragma once

#include "models/json.h"
#include "models/llama_weights.h"

namespace sotto::models {

struct HfConfig {
  LlamaConfig llama;
  bool tied;  // the output matrix is the embedding
};

// Throws FileError for what is missing or wrong and, by name, for what is not supported.
HfConfig read_hf_config(const JsonView& config);

}  // namespace sotto::models

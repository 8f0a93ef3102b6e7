// A Llama model and its tokenizer from a GGUF file.
#pragma once

#include <filesystem>

#include "models/model_file.h"

namespace sotto::models {

Model load_gguf(const std::filesystem::path& path, LoadTokenizer tokenizer);

}  // namespace sotto::models

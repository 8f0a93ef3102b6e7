// A Llama model and its tokenizer from Hugging Face's files.
#pragma once

#include <filesystem>

#include "models/model_file.h"

namespace sotto::models {

// `path`: a .safetensors file with config.json beside it, or the folder.
Model load_hugging_face(const std::filesystem::path& path, LoadTokenizer tokenizer);

}  // namespace sotto::models

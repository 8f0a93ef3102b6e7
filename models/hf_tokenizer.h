// tokenizer.json of Hugging Face tokenizers.
#pragma once

#include <cstdint>

#include "models/json.h"
#include "models/tokenizer.h"

namespace sotto::models {

// `vocab`: ids must be below it. Throws FileError for what is wrong and, by name, for what is not
// supported: models other than byte-level BPE, normalizers, other pre-tokenizers.
Tokenizer read_hf_tokenizer(const JsonView& root, std::int64_t vocab);

}  // namespace sotto::models

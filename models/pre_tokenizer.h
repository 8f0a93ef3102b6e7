// Splits a text into the pieces that byte-pair encoding works on.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/regex.h"

namespace sotto::models {

// A chain of splits by regular expressions: each stage splits every piece of the one before.
class PreTokenizer {
 public:
  struct Stage {
    std::shared_ptr<const Regex> pattern;  // null: does not split
    bool keep_matches = true;              // a match is a piece
    bool keep_gaps = true;                 // what lies between two matches is a piece
    bool prefix_space = false;             // first, a space is put before a piece that has none
  };

  PreTokenizer() = default;  // the whole text is one piece
  explicit PreTokenizer(std::vector<Stage> stages) : stages_(std::move(stages)) {}

  // Gives the pieces in order; none is empty. `text` must be UTF-8. A piece lives until `sink`
  // returns. Throws Error where a pattern needs too many steps.
  void split(std::string_view text, const std::function<void(std::string_view)>& sink) const;

 private:
  void split_from(std::size_t stage, std::string_view text,
                  std::vector<std::optional<RegexScanner>>& scanners,
                  const std::function<void(std::string_view)>& sink) const;

  std::vector<Stage> stages_;
};

// The pattern that GPT-2 splits text with: contractions, words, numbers, punctuation, white space,
// each with the space before it.
PreTokenizer::Stage gpt2_stage();

// The splits that the GGUF key tokenizer.ggml.pre names, as llama.cpp defines them, and whether
// merges are ignored for a piece that is a token. Throws Error for a name it does not know.
struct NamedPreTokenizer {
  PreTokenizer pre_tokenizer;
  bool ignore_merges;
};
NamedPreTokenizer named_pre_tokenizer(std::string_view name);

}  // namespace sotto::models

// Byte-level byte-pair encoding (Sennrich et al. 2016, over bytes as in GPT-2).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "models/pre_tokenizer.h"

namespace sotto::models {

// A tokenizer as a file spells it. Tokens are in the alphabet of GPT-2, where each byte is one
// printable character; a token with any other character stands for its own UTF-8 and is only ever
// decoded.
struct TokenizerDefinition {
  std::string file, tokens_field, merges_field;  // for errors

  std::vector<std::string> tokens = {};  // by id; empty: an id without a text
  std::vector<std::pair<std::string, std::string>> merges = {};  // by rank
  PreTokenizer pre_tokenizer = {};
  std::optional<std::int32_t> unknown = {};  // for a byte that is no token
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
};

class Tokenizer {
 public:
  // Throws FileError where a token's text repeats or is no UTF-8, where no single byte is a token,
  // or where a merge is empty, repeats, or has a part or a product that is no token.
  explicit Tokenizer(TokenizerDefinition definition);

  // The ids of a text: no BOS, no special tokens, and the text of a special token is plain text.
  // What is not UTF-8 is read as U+FFFD, as a browser or Python's errors="replace" does. A byte
  // that is no token gives the unknown token or, without one, nothing, as in Hugging Face
  // tokenizers.
  // Throws InvalidArgument for a text of 2 GiB or more, FileError where a pattern of the file's own
  // needs too many steps on this text.
  std::vector<std::int32_t> encode(std::string_view text) const;

  // The bytes of a sequence of ids, which need not be whole UTF-8. Throws InvalidArgument for an id
  // outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  // One more than the largest id.
  std::int64_t vocab_size() const { return static_cast<std::int64_t>(texts_.size()); }

 private:
  struct Merge {
    std::int32_t rank, product;
  };
  struct Scratch;

  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const;

  std::string file_;
  PreTokenizer pre_tokenizer_;
  bool ignore_merges_;
  std::vector<std::string> texts_;                         // by id, in bytes
  std::unordered_map<std::string, std::int32_t> by_text_;  // byte-level tokens only
  std::array<std::int32_t, 256> byte_ids_;                 // -1: no token
  std::unordered_map<std::uint64_t, Merge> merges_;        // by left id << 32 | right id
};

}  // namespace sotto::models

#include "models/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <queue>

#include "models/file_error.h"
#include "models/utf8.h"
#include "sotto/error.h"

namespace sotto::models {
namespace {

constexpr std::int32_t kNone = -1;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

// A piece in the making is a doubly linked list of symbols in an array; a merge puts its product in
// the left one's place and takes the right one out.
struct Symbol {
  std::int32_t id;  // kNone: taken out
  std::int32_t previous, next;
};

// A merge that was possible when it was found; it is stale once one of its symbols has changed.
struct Candidate {
  std::int32_t rank, left, left_id, right_id, product;

  // The priority queue gives the greatest: the lowest rank, then the leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

// Memory of one encode, used again from piece to piece.
struct Tokenizer::Scratch {
  std::vector<Symbol> symbols;
  std::priority_queue<Candidate> candidates;
};

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : file_(definition.file),
      pre_tokenizer_(std::move(definition.pre_tokenizer)),
      ignore_merges_(definition.ignore_merges) {
  const auto fail = [&](const std::string& field, std::size_t index, const std::string& problem) {
    throw FileError(definition.file, fmt::format("{}[{}]", field, index), problem);
  };
  constexpr auto kMaxCount = static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max());
  if (definition.tokens.size() > kMaxCount || definition.merges.size() > kMaxCount) {
    throw FileError(definition.file, definition.tokens_field, "more than 2^31 - 1 entries");
  }

  byte_ids_.fill(kNone);
  for (std::size_t id = 0; id < definition.tokens.size(); ++id) {
    std::string& token = definition.tokens[id];
    if (repaired_utf8(token)) {
      fail(definition.tokens_field, id, excerpt(token) + " is not valid UTF-8");
    }
    std::optional<std::string> bytes;
    if (!token.empty()) bytes = from_byte_alphabet(token);
    if (bytes) {
      const auto [entry, is_new] = by_text_.emplace(*bytes, static_cast<std::int32_t>(id));
      if (!is_new) {
        fail(definition.tokens_field, id,
             fmt::format("{} is already token {}", excerpt(token), entry->second));
      }
      if (bytes->size() == 1) {
        byte_ids_[static_cast<unsigned char>(bytes->front())] = static_cast<std::int32_t>(id);
      }
    }
    texts_.push_back(bytes ? std::move(*bytes) : std::move(token));
  }
  if (std::all_of(byte_ids_.begin(), byte_ids_.end(), [](auto id) { return id == kNone; })) {
    throw FileError(definition.file, definition.tokens_field,
                    "no single byte is a token, so this is no byte-level vocabulary");
  }
  for (std::int32_t& id : byte_ids_) {
    if (id == kNone) id = definition.unknown.value_or(kNone);
  }

  const auto find = [&](std::size_t rank, const std::string& text) {
    const auto bytes = repaired_utf8(text) ? std::nullopt : from_byte_alphabet(text);
    const auto found = bytes ? by_text_.find(*bytes) : by_text_.end();
    if (found == by_text_.end()) {
      fail(definition.merges_field, rank, excerpt(text) + " is no token of the vocabulary");
    }
    return found->second;
  };
  for (std::size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const auto& [left, right] = definition.merges[rank];
    if (left.empty() || right.empty()) {
      fail(definition.merges_field, rank, "a merge needs two parts that are not empty");
    }
    const std::uint64_t key = pair_key(find(rank, left), find(rank, right));
    const Merge merge{static_cast<std::int32_t>(rank), find(rank, left + right)};
    const auto [entry, is_new] = merges_.emplace(key, merge);
    if (!is_new) {
      fail(
          definition.merges_field, rank,
          fmt::format("{} {} repeats merge {}", excerpt(left), excerpt(right), entry->second.rank));
    }
  }
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw InvalidArgument("text",
                          fmt::format("must be shorter than 2 GiB, got {} bytes", text.size()));
  }
  const std::optional<std::string> repaired = repaired_utf8(text);
  std::vector<std::int32_t> ids;
  Scratch scratch;
  try {
    pre_tokenizer_.split(repaired ? *repaired : text,
                         [&](std::string_view piece) { encode_piece(piece, scratch, ids); });
  } catch (const Error& error) {
    throw FileError(file_, "pre-tokenizer", error.what());
  }
  return ids;
}

void Tokenizer::encode_piece(std::string_view piece, Scratch& scratch,
                             std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    const auto whole = by_text_.find(std::string(piece));
    if (whole != by_text_.end()) {
      ids.push_back(whole->second);
      return;
    }
  }

  auto& symbols = scratch.symbols;
  symbols.clear();
  for (const char c : piece) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    const auto index = static_cast<std::int32_t>(symbols.size());
    if (id != kNone) symbols.push_back({id, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;

  auto& candidates = scratch.candidates;  // empty between pieces
  const auto consider = [&](std::int32_t left) {
    const std::int32_t right = symbols[left].next;
    if (right == kNone) return;
    const auto merge = merges_.find(pair_key(symbols[left].id, symbols[right].id));
    if (merge == merges_.end()) return;
    candidates.push(
        {merge->second.rank, left, symbols[left].id, symbols[right].id, merge->second.product});
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!candidates.empty()) {
    const Candidate candidate = candidates.top();
    candidates.pop();
    Symbol& left = symbols[candidate.left];
    if (left.id != candidate.left_id || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (right.id != candidate.right_id) continue;
    left.id = candidate.product;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbols[left.next].previous = candidate.left;
    consider(candidate.left);
    if (left.previous != kNone) consider(left.previous);
  }
  for (std::int32_t i = 0; i != kNone; i = symbols[i].next) ids.push_back(symbols[i].id);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      throw InvalidArgument(
          "ids", fmt::format("ids[{}] must be in [0, {}), got {}", i, vocab_size(), ids[i]));
    }
    text += texts_[ids[i]];
  }
  return text;
}

}  // namespace sotto::models

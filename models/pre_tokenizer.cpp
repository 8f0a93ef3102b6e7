#include "models/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "models/file_error.h"
#include "models/utf8.h"
#include "sotto/error.h"

namespace sotto::models {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Named {
  std::string_view name;
  std::vector<std::string_view> patterns;
  bool ignore_merges = false;
};

const std::vector<Named>& named() {
  static const std::vector<Named> table{
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"gpt-2", {kGpt2}},
      {"gpt2", {kGpt2}},
      {"phi-2", {kGpt2}},
      {"mpt", {kGpt2}},
      {"olmo", {kGpt2}},
      {"smollm", {R"(\p{N})", kGpt2}},
      {"starcoder", {R"(\p{N})", kGpt2}},
      {"refact", {R"(\p{N})", kGpt2}},
      {"command-r", {R"(\p{N})", kGpt2}},
      {"codeshell", {R"(\p{N})", kGpt2}},
      {"llama-bpe", {kLlama3}, true},
      {"llama3", {kLlama3}, true},
      {"llama-v3", {kLlama3}, true},
      {"falcon3", {kLlama3}, true},
      {"pixtral", {kLlama3}, true},
      {"dbrx", {kLlama3}},
      {"smaug-bpe", {kLlama3}},
      {"qwen2", {kQwen2}},
      {"stablelm2", {kQwen2}},
  };
  return table;
}

}  // namespace

void PreTokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& sink) const {
  std::vector<std::optional<RegexScanner>> scanners;
  for (const Stage& stage : stages_) {
    scanners.emplace_back(stage.pattern ? std::optional<RegexScanner>(*stage.pattern)
                                        : std::nullopt);
  }
  split_from(0, text, scanners, sink);
}

void PreTokenizer::split_from(std::size_t index, std::string_view text,
                              std::vector<std::optional<RegexScanner>>& scanners,
                              const std::function<void(std::string_view)>& sink) const {
  if (text.empty()) return;
  if (index == stages_.size()) {
    sink(text);
    return;
  }
  const Stage& stage = stages_[index];
  std::string prefixed;
  if (stage.prefix_space && text.front() != ' ') {
    prefixed = ' ' + std::string(text);
    text = prefixed;
  }
  if (!scanners[index]) {
    split_from(index + 1, text, scanners, sink);
    return;
  }
  const auto pass_on = [&](bool keep, std::size_t begin, std::size_t end) {
    if (keep) split_from(index + 1, text.substr(begin, end - begin), scanners, sink);
  };
  std::size_t done = 0;    // all before it has been passed on
  std::size_t search = 0;  // where the next match may start
  while (search < text.size()) {
    const auto match = scanners[index]->find(text, search);
    if (!match) break;
    pass_on(stage.keep_gaps, done, match->begin);
    pass_on(stage.keep_matches, match->begin, match->end);
    done = match->end;
    // An empty match only cuts; the search goes on behind the next character.
    search = done > match->begin ? done : done + utf8_length(text.substr(done));
  }
  pass_on(stage.keep_gaps, done, text.size());
}

PreTokenizer::Stage gpt2_stage() { return {.pattern = std::make_shared<const Regex>(kGpt2)}; }

NamedPreTokenizer named_pre_tokenizer(std::string_view name) {
  const auto& table = named();
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const Named& entry) { return entry.name == name; });
  if (found == table.end()) {
    std::string known;
    for (const Named& entry : table) {
      known += (known.empty() ? "" : ", ") + std::string(entry.name);
    }
    throw Error("unknown pre-tokenizer " + excerpt(name) + " (known: " + known +
                "); give a file of token ids instead of a text");
  }
  std::vector<PreTokenizer::Stage> stages;
  for (const std::string_view pattern : found->patterns) {
    stages.push_back({.pattern = std::make_shared<const Regex>(pattern)});
  }
  return {PreTokenizer(std::move(stages)), found->ignore_merges};
}

}  // namespace sotto::models

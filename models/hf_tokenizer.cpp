#include "models/hf_tokenizer.h"

#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sotto::models {
namespace {

const std::string kAdvice = " is not supported; give a file of token ids instead of a text";
constexpr std::size_t kMaxStages = 32;  // each is a level of recursion in PreTokenizer

bool is_true(const JsonView& object, const std::string& key) {
  const auto value = object.find(key);
  return value && value->boolean();
}

std::shared_ptr<const Regex> read_pattern(const JsonView& pattern) {
  const auto regex = pattern.find("Regex");
  const JsonView source = regex ? *regex : pattern.at("String");
  if (source.text().empty()) source.fail("is empty");
  try {
    return std::make_shared<const Regex>(source.text(),
                                         regex ? Regex::Syntax::regex : Regex::Syntax::literal);
  } catch (const Error& error) {
    source.fail(error.what());
  }
}

PreTokenizer::Stage read_split(const JsonView& split) {
  PreTokenizer::Stage stage{.pattern = read_pattern(split.at("pattern"))};
  const JsonView behavior = split.at("behavior");
  if (behavior.text() == "Removed") {
    // Inverted, the pattern says what stays.
    (is_true(split, "invert") ? stage.keep_gaps : stage.keep_matches) = false;
  } else if (behavior.text() != "Isolated") {
    behavior.fail(excerpt(behavior.text()) + kAdvice);
  }
  return stage;
}

// Adds the stages of a pre-tokenizer, and says whether the last one turns pieces into bytes.
bool read_stages(const JsonView& node, std::vector<PreTokenizer::Stage>& stages) {
  const JsonView type = node.at("type");
  if (stages.size() >= kMaxStages) type.fail(fmt::format("more than {} stages", kMaxStages));
  if (type.text() == "Sequence") {
    const JsonView list = node.at("pretokenizers");
    bool to_bytes = false;
    for (std::size_t i = 0; i < list.array().size(); ++i) {
      if (to_bytes) list.element(i).fail("a stage after ByteLevel" + kAdvice);
      to_bytes = read_stages(list.element(i), stages);
    }
    return to_bytes;
  }
  if (type.text() == "ByteLevel") {
    const auto use_regex = node.find("use_regex");
    PreTokenizer::Stage stage;
    if (!use_regex || use_regex->boolean()) stage = gpt2_stage();
    stage.prefix_space = is_true(node, "add_prefix_space");
    stages.push_back(std::move(stage));
    return true;
  }
  if (type.text() == "Split") {
    stages.push_back(read_split(node));
  } else if (type.text() == "Digits") {
    const char* pattern = is_true(node, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)";
    stages.push_back({.pattern = std::make_shared<const Regex>(pattern)});
  } else {
    type.fail(excerpt(type.text()) + kAdvice);
  }
  return false;
}

PreTokenizer read_pre_tokenizer(const JsonView& root) {
  std::vector<PreTokenizer::Stage> stages;
  const JsonView node = root.at("pre_tokenizer");
  if (!root.find("pre_tokenizer") || !read_stages(node, stages)) {
    node.fail("a tokenizer without ByteLevel at its end" + kAdvice);
  }
  return PreTokenizer(std::move(stages));
}

void check_supported(const JsonView& root, const JsonView& model) {
  if (const auto type = model.find("type"); type && type->text() != "BPE") {
    type->fail(excerpt(type->text()) + kAdvice);
  }
  if (const auto normalizer = root.find("normalizer")) {
    const JsonView type = normalizer->at("type");
    type.fail(excerpt(type.text()) + kAdvice);
  }
  if (const auto dropout = model.find("dropout"); dropout && dropout->number() != 0) {
    dropout->fail("a random choice of merges" + kAdvice);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = model.find(key); affix && !affix->text().empty()) {
      affix->fail(excerpt(affix->text()) + kAdvice);
    }
  }
  for (const char* key : {"byte_fallback", "fuse_unk"}) {
    if (is_true(model, key)) model.at(key).fail("true" + kAdvice);
  }
}

void put_token(const JsonView& id, const std::string& text, std::int64_t vocab,
               std::vector<std::string>& tokens) {
  const std::int64_t index = id.integer();
  if (index < 0 || index >= vocab) {
    id.fail(fmt::format("must be in [0, {}) (the rows of the embedding), got {}", vocab, index));
  }
  const auto at = static_cast<std::size_t>(index);
  if (at >= tokens.size()) tokens.resize(at + 1);
  // added_tokens repeats tokens of the vocabulary.
  if (!tokens[at].empty() && tokens[at] != text) {
    id.fail(fmt::format("{} is the id of {} and of {}", index, excerpt(tokens[at]), excerpt(text)));
  }
  tokens[at] = text;
}

}  // namespace

Tokenizer read_hf_tokenizer(const JsonView& root, std::int64_t vocab) {
  const JsonView model = root.at("model");
  check_supported(root, model);
  TokenizerDefinition definition{.file = root.file(),
                                 .tokens_field = "model.vocab",
                                 .merges_field = "model.merges",
                                 .pre_tokenizer = read_pre_tokenizer(root),
                                 .ignore_merges = is_true(model, "ignore_merges")};
  const JsonView tokens = model.at("vocab");
  for (const auto& [text, id] : tokens.object().items()) {
    put_token(tokens.at(text), text, vocab, definition.tokens);
  }
  if (const auto unknown = model.find("unk_token")) {
    const std::string& text = unknown->text();
    if (!tokens.find(text)) unknown->fail(excerpt(text) + " is no token of the vocabulary");
    definition.unknown = static_cast<std::int32_t>(tokens.at(text).integer());
  }
  if (const auto added = root.find("added_tokens")) {
    for (std::size_t i = 0; i < added->array().size(); ++i) {
      const JsonView token = added->element(i);
      put_token(token.at("id"), token.at("content").text(), vocab, definition.tokens);
    }
  }
  const JsonView merges = model.at("merges");
  for (std::size_t i = 0; i < merges.array().size(); ++i) {
    const JsonView merge = merges.element(i);
    if (merge.is_array()) {
      if (merge.array().size() != 2) merge.fail("must be two tokens");
      definition.merges.emplace_back(merge.element(0).text(), merge.element(1).text());
    } else {
      const std::string& text = merge.text();
      const std::size_t space = text.find(' ');
      if (space == std::string::npos) merge.fail("must be two tokens with a space between");
      definition.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }
  return Tokenizer(std::move(definition));
}

}  // namespace sotto::models

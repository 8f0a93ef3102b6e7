// Texts of every kind: recipes, token ids, and what a tokenizer is given.
#include <memory>

#include "file.h"
#include "models/input_files.h"
#include "models/tokenizer.h"
#include "models/utf8.h"
#include "sotto/recipe.h"
#include "target.h"

using namespace sotto;

namespace {

models::Tokenizer make_tokenizer() {
  models::TokenizerDefinition definition{
      .file = "file", .tokens_field = "tokens", .merges_field = "merges"};
  for (const char* token : {"a", "b", "c", "ab", "bc", "abc", "\u0120", "\u0120a", "1", "\u00c3",
                            "\u00a9", "\u00c3\u00a9"}) {
    definition.tokens.emplace_back(token);
  }
  definition.merges = {{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"\u0120", "a"}, {"\u00c3", "\u00a9"}};
  definition.pre_tokenizer = models::PreTokenizer({models::gpt2_stage()});
  return models::Tokenizer(std::move(definition));
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const models::Tokenizer tokenizer = make_tokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::attempt([&] {
    const Recipe recipe = Recipe::parse(text);
    fuzz::require(Recipe::parse(to_string(recipe)) == recipe, "a recipe's text is that recipe");
  });
  fuzz::attempt([&] { tokenizer.decode(tokenizer.encode(text)); });
  const auto repaired = models::repaired_utf8(text);
  fuzz::require(!repaired || !models::repaired_utf8(*repaired), "repaired once is repaired");
  const auto path = fuzz::file_of(data, size);
  fuzz::attempt([&] { models::read_token_ids(path, 100); });
  fuzz::attempt([&] { models::read_text(path); });
  return 0;
}

// Patterns of tokenizers: their translation, and splits by them.
#include <memory>
#include <string>

#include "models/pre_tokenizer.h"
#include "models/utf8.h"
#include "target.h"

using namespace sotto;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Short, for a pattern may take exponential time.
  constexpr std::size_t kMostPattern = 48, kMostText = 12;
  fuzz::Input input(data, size);
  const auto syntax = input.flag() ? models::Regex::Syntax::regex : models::Regex::Syntax::literal;
  std::string text(input.text(kMostText));
  if (auto repaired = models::repaired_utf8(text)) text = *repaired;
  const std::string_view pattern = input.text(kMostPattern);
  fuzz::attempt([&] {
    const models::PreTokenizer splitter(
        {{.pattern = std::make_shared<const models::Regex>(pattern, syntax)}});
    std::string pieces;
    splitter.split(text, [&](std::string_view piece) { pieces += piece; });
    fuzz::require(pieces == text, "the pieces are the text");
  });
  return 0;
}

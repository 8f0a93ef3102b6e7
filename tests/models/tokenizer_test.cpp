// Byte-pair encoding by hand-made vocabularies. tests/python/test_tokenizer.py compares a real one
// with Hugging Face's implementation.
#include "models/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "models/file_error.h"
#include "models/utf8.h"
#include "sotto/error.h"

namespace sotto::models {
namespace {

using Ids = std::vector<std::int32_t>;

TokenizerDefinition words() {
  return {.file = "file",
          .tokens_field = "tokens",
          .merges_field = "merges",
          // The last is "\xc3\xa9", e with an acute accent.
          .tokens = {"a", "b", "c", "ab", "bc", "abc", "aa", "\u00c3", "\u00a9", "\u00c3\u00a9"},
          .merges = {{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}, {"\u00c3", "\u00a9"}}};
}

TEST(Tokenizer, MergesByRank) {
  const Tokenizer tokenizer(words());
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{3}));
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{5}));  // b c comes first, then a bc
  EXPECT_EQ(tokenizer.encode("abb"), (Ids{3, 1}));
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{6, 0}));  // the leftmost of equals
  EXPECT_EQ(tokenizer.encode("aaaab"), (Ids{6, 0, 3}));
  EXPECT_EQ(tokenizer.encode("\u00e9"), (Ids{9}));
}

TEST(Tokenizer, LeavesOutBytesThatAreNoTokens) {
  EXPECT_EQ(Tokenizer(words()).encode("axb\u00e9 z"), (Ids{3, 9}));
  TokenizerDefinition with_unknown = words();
  with_unknown.unknown = 2;
  EXPECT_EQ(Tokenizer(std::move(with_unknown)).encode("axb"), (Ids{0, 2, 1}));
}

TEST(Tokenizer, IgnoresMergesWhereAsked) {
  TokenizerDefinition definition = words();
  definition.merges.clear();
  definition.ignore_merges = true;
  const Tokenizer tokenizer(std::move(definition));
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{5}));
  EXPECT_EQ(tokenizer.encode("abca"), (Ids{0, 1, 2, 0}));
}

TEST(Tokenizer, Decodes) {
  TokenizerDefinition definition = words();
  definition.tokens.push_back("<\u4e16>");  // not in the byte alphabet: its own text
  const Tokenizer tokenizer(std::move(definition));
  EXPECT_EQ(tokenizer.decode(Ids{5, 9, 10, 7}), "abc\u00e9<\u4e16>\xc3");
  EXPECT_EQ(tokenizer.vocab_size(), 11);
  EXPECT_THROW(tokenizer.decode(Ids{11}), InvalidArgument);
  EXPECT_THROW(tokenizer.decode(Ids{0, -1}), InvalidArgument);
}

TEST(Tokenizer, TakesNoSquareOfTheLength) {
  TokenizerDefinition definition = words();
  for (std::string word = "aa"; word.size() < 1024; word += word) {
    definition.tokens.push_back(word + word);
    definition.merges.emplace_back(word, word);
  }
  const Tokenizer tokenizer(std::move(definition));
  // Quadratic time would be minutes.
  const Ids ids = tokenizer.encode(std::string(1 << 20, 'a'));
  EXPECT_EQ(ids.size(), std::size_t{1} << 10);
}

// The pieces that a text is split into.
std::vector<std::string> pieces(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string> result;
  pre_tokenizer.split(text, [&](std::string_view piece) { result.emplace_back(piece); });
  return result;
}

TEST(PreTokenizer, SplitsAsNamed) {
  using Pieces = std::vector<std::string>;
  const std::string text = "I'll  take 123 of\u00a0them,\n\nDON'T\t";
  const auto split = [&](const char* name) {
    return pieces(named_pre_tokenizer(name).pre_tokenizer, text);
  };
  EXPECT_EQ(split("gpt-2"), (Pieces{"I", "'ll", " ", " take", " 123", " of", "\u00a0", "them", ",",
                                    "\n", "\n", "DON", "'", "T", "\t"}));
  EXPECT_EQ(split("smollm"), (Pieces{"I", "'ll", " ", " take", " ", "1", "2", "3", " of", "\u00a0",
                                     "them", ",", "\n", "\n", "DON", "'", "T", "\t"}));
  EXPECT_EQ(split("llama-bpe"), (Pieces{"I", "'ll", " ", " take", " ", "123", " of", "\u00a0them",
                                        ",\n\n", "DON", "'T", "\t"}));
  EXPECT_EQ(split("qwen2"), (Pieces{"I", "'ll", " ", " take", " ", "1", "2", "3", " of",
                                    "\u00a0them", ",\n\n", "DON", "'T", "\t"}));
  EXPECT_TRUE(named_pre_tokenizer("llama-bpe").ignore_merges);
  EXPECT_FALSE(named_pre_tokenizer("smollm").ignore_merges);
  EXPECT_THROW(named_pre_tokenizer("nobody"), Error);
}

TEST(PreTokenizer, KeepsWhatIsAsked) {
  using Pieces = std::vector<std::string>;
  const auto pattern = std::make_shared<const Regex>("[0-9]+");
  const auto split = [&](bool matches, bool gaps, bool prefix) {
    const PreTokenizer pre_tokenizer({{pattern, matches, gaps, prefix}});
    return pieces(pre_tokenizer, "a1b22");
  };
  EXPECT_EQ(split(true, true, false), (Pieces{"a", "1", "b", "22"}));
  EXPECT_EQ(split(true, false, false), (Pieces{"1", "22"}));
  EXPECT_EQ(split(false, true, true), (Pieces{" a", "b"}));
  const auto nothing = std::make_shared<const Regex>("(?=b)|(?=\u00e9)");
  EXPECT_EQ(pieces(PreTokenizer({{nothing}}), "ab\u00e9b"), (Pieces{"a", "b", "\u00e9", "b"}));
}

TEST(PreTokenizer, StopsAPatternThatGoesOnForEver) {
  const auto hostile = std::make_shared<const Regex>("(a+)+$");
  const PreTokenizer pre_tokenizer({{hostile}});
  EXPECT_THROW(pieces(pre_tokenizer, std::string(64, 'a') + "b"), Error);
}

TEST(PreTokenizer, TakesLongRuns) {
  for (const char* name : {"default", "gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const auto named = named_pre_tokenizer(name);
    for (const char* unit :
         {"a", " ", "\n", "7", "-", "\u00e9", "\xf0\x9f\x98\x80", "\r\n", "'s"}) {
      std::string text;
      while (text.size() < 300000) text += unit;
      std::size_t size = 0;
      named.pre_tokenizer.split(text, [&](std::string_view piece) { size += piece.size(); });
      EXPECT_EQ(size, text.size()) << name;
    }
  }
}

TEST(Utf8, IsRepaired) {
  const std::string replacement = "\xef\xbf\xbd";
  EXPECT_FALSE(repaired_utf8("plain \u00e9 \u4e16 \xf0\x9f\x98\x80"));
  EXPECT_FALSE(repaired_utf8(""));
  EXPECT_EQ(repaired_utf8("a\xff"
                          "b"),
            'a' + replacement + 'b');
  EXPECT_EQ(repaired_utf8("\xc3"), replacement);
  EXPECT_EQ(repaired_utf8("\xe2\x82x"), replacement + 'x');         // one for a part of a character
  EXPECT_EQ(repaired_utf8("\xc0\xaf"), replacement + replacement);  // overlong
  EXPECT_EQ(repaired_utf8("\xf4\x90"), replacement + replacement);  // past U+10FFFF
  EXPECT_EQ(repaired_utf8("\xed\xa0"), replacement + replacement);  // surrogate
}

TEST(Utf8, SpellsEveryByteAsOneCharacter) {
  EXPECT_EQ(from_byte_alphabet("a\u0120\u010a"), "a \n");
  EXPECT_EQ(from_byte_alphabet("\u0100\u0143"), std::string("\0\xad", 2));
  EXPECT_FALSE(from_byte_alphabet(" "));
  EXPECT_FALSE(from_byte_alphabet("\u0144"));
  EXPECT_FALSE(from_byte_alphabet("\u4e16"));
}

}  // namespace
}  // namespace sotto::models

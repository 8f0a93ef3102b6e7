// The language of the case tables: a case is one line of words, "b2 q1,17 … causal out=nvfp4".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sotto::test {

// "d{64,128} {causal,}" is four cases: braces hold alternatives, an empty one included.
std::vector<std::string> expand(std::string_view line);
std::vector<std::string> expand(const std::vector<std::string_view>& lines);

// A case's words. "out=e4m3" is out → e4m3; "paged16" is paged → 16; "causal" is causal → "".
class Spec {
 public:
  explicit Spec(std::string_view text);

  bool has(const std::string& key);
  std::string text(const std::string& key, const std::string& otherwise);
  double number(const std::string& key, double otherwise);
  // "3:0:17" is {3, 0, 17}.
  std::vector<std::int64_t> list(const std::string& key,
                                 const std::vector<std::int64_t>& otherwise);
  // "e4m3/bf16" is {e4m3, bf16}.
  std::vector<std::string> parts(const std::string& key, const std::string& otherwise);

  // Throws where a word was not asked for: a typing error in a table must not pass unseen.
  void finish() const;

 private:
  std::string text_;
  std::map<std::string, std::string> words_;
  std::map<std::string, bool> asked_;
};

// A seed that depends on the text alone.
std::uint64_t seed_of(std::string_view text);

// A name that GoogleTest accepts.
std::string test_name(std::string_view text);

std::vector<std::string> split(std::string_view text, char separator);

}  // namespace sotto::test

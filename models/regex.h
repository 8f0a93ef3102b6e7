// Regular expressions over UTF-8 with Unicode classes (PCRE2).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

// PCRE2's own types, so that its header stays out of this one.
struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;
struct pcre2_real_jit_stack_8;

namespace sotto::models {

class Regex {
 public:
  enum class Syntax { regex, literal };

  // \s and \S are Unicode's White_Space, as in the engine (Oniguruma) that tokenizer.json files are
  // written for. Throws Error with the problem and its place.
  explicit Regex(std::string_view pattern, Syntax syntax = Syntax::regex);

 private:
  friend class RegexScanner;
  std::shared_ptr<pcre2_real_code_8> code_;
};

// Finds the matches of one Regex; holds what can be used again from one text to the next.
class RegexScanner {
 public:
  struct Match {
    std::size_t begin, end;
  };

  explicit RegexScanner(const Regex& regex);

  // The first match at or after `start`, which lies between two characters. `text` must be UTF-8.
  // Throws Error where the pattern needs too many steps.
  std::optional<Match> find(std::string_view text, std::size_t start);

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
  std::shared_ptr<pcre2_real_match_data_8> match_data_;
  std::shared_ptr<pcre2_real_jit_stack_8> jit_stack_;
  std::shared_ptr<pcre2_real_match_context_8> match_context_;
};

}  // namespace sotto::models

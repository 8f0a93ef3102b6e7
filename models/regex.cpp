#include "models/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <new>

#include "models/file_error.h"
#include "sotto/error.h"

namespace sotto::models {
namespace {

// A file's pattern may be hostile: these bound the time, from each position of the text, and the
// memory of one search. The steps are enough for a run of white space of tens of megabytes, which
// ordinary patterns go back through.
constexpr std::uint32_t kMaxSteps = 100'000'000;
constexpr std::uint32_t kMaxHeapKiB = 256 * 1024;
constexpr std::size_t kMaxJitStack = 64 * 1024 * 1024;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// PCRE2's \s has U+180E besides White_Space. Sets of sets ([a&&b]) are not in PCRE2's language,
// which would read them as plain characters.
std::string for_pcre2(std::string_view pattern) {
  if (pattern.find("&&") != std::string_view::npos) {
    throw Error("pattern " + excerpt(pattern) + ": intersections of classes are not supported");
  }
  std::string out;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out += pattern[i];
      continue;
    }
    ++i;
    if (pattern[i] == 's') {
      out += "\\p{White_Space}";
    } else if (pattern[i] == 'S') {
      out += "\\P{White_Space}";
    } else {
      out += '\\';
      out += pattern[i];
    }
  }
  return out;
}

template <typename T>
T* checked(T* pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

}  // namespace

Regex::Regex(std::string_view pattern, Syntax syntax) {
  const bool literal = syntax == Syntax::literal;
  const std::string source = literal ? std::string(pattern) : for_pcre2(pattern);
  // \C could leave a match in the middle of a character.
  const std::uint32_t options =
      literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  std::size_t offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(),
                                   options, &error, &offset, nullptr);
  if (code == nullptr) {
    throw Error(
        fmt::format("pattern {}: {} at byte {}", excerpt(source), message_of(error), offset));
  }
  code_ = std::shared_ptr<pcre2_code>(code, pcre2_code_free);
  // Where PCRE2 was built without its compiler this fails, and matching interprets.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

RegexScanner::RegexScanner(const Regex& regex)
    : code_(regex.code_),
      match_data_(checked(pcre2_match_data_create(1, nullptr)), pcre2_match_data_free),
      match_context_(checked(pcre2_match_context_create(nullptr)), pcre2_match_context_free) {
  pcre2_set_match_limit(match_context_.get(), kMaxSteps);
  pcre2_set_heap_limit(match_context_.get(), kMaxHeapKiB);
  if (pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kMaxJitStack, nullptr)) {
    jit_stack_ = std::shared_ptr<pcre2_jit_stack>(stack, pcre2_jit_stack_free);
    pcre2_jit_stack_assign(match_context_.get(), nullptr, stack);
  }
}

std::optional<RegexScanner::Match> RegexScanner::find(std::string_view text, std::size_t start) {
  // The check of the whole text that PCRE2 would do at every call makes a scan quadratic.
  const int result =
      pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                  PCRE2_NO_UTF_CHECK, match_data_.get(), match_context_.get());
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) throw Error("a pattern cannot be matched: " + message_of(result));
  const std::size_t* range = pcre2_get_ovector_pointer(match_data_.get());
  // \K can move a match's start.
  if (range[0] < start || range[1] < range[0]) {
    throw Error("a match of a pattern ends before it starts");
  }
  return Match{range[0], range[1]};
}

}  // namespace sotto::models

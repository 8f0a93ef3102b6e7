#include "models/input_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "models/file_error.h"
#include "models/mapped_file.h"

namespace sotto::models {
namespace {

constexpr std::string_view kSeparators = " \t\r\n,";

std::string_view without_separators(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSeparators);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSeparators) - begin + 1);
}

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  std::string text;
  text.reserve(file.text().size());
  char previous = 0;
  for (const char c : file.text()) {
    if (c != '\n' || previous != '\r') text += c == '\r' ? '\n' : c;
    previous = c;
  }
  return text;
}

std::vector<std::int32_t> read_token_ids(const std::filesystem::path& path, std::int64_t vocab) {
  const MappedFile file(path);
  std::string_view text = without_separators(file.text());
  if (text.starts_with('[') && text.ends_with(']') && text.size() > 1) {
    text = without_separators(text.substr(1, text.size() - 2));
  }
  std::vector<std::int32_t> ids;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find_first_of(kSeparators));
    std::int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size() || id < 0 || id >= vocab) {
      throw FileError(file.name(), fmt::format("token {}", ids.size()),
                      fmt::format("at byte {}: must be an integer in [0, {}), got {}",
                                  word.data() - file.text().data(), vocab, excerpt(word)));
    }
    ids.push_back(id);
    text.remove_prefix(word.size());
    text.remove_prefix(std::min(text.find_first_not_of(kSeparators), text.size()));
  }
  if (ids.empty()) throw FileError(file.name(), "file", "has no token ids");
  return ids;
}

}  // namespace sotto::models

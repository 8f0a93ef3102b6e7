#include "models/file_error.h"

#include <fmt/format.h>

#include <cstddef>

namespace sotto::models {
namespace {

// A file's own text must neither flood nor steer the terminal that shows the error.
std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > limit) out += "...";
  return out;
}

}  // namespace

FileError::FileError(const std::string& file, const std::string& field, const std::string& problem)
    : Error(file + ": " + printable(field, 200) + ": " + problem) {}

std::string excerpt(std::string_view text) { return '"' + printable(text, 80) + '"'; }

}  // namespace sotto::models

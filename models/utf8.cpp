#include "models/utf8.h"

#include <cstdint>
#include <vector>

namespace sotto::models {
namespace {

// A step through possibly broken text: the bytes of a whole character, or of the longest part of
// one that starts here (1 where none does).
struct Step {
  std::size_t length;
  bool whole;
};

Step next_step(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xc2 || lead > 0xf4) return {1, false};
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    // The second byte's range keeps out overlong forms, surrogates and what lies past U+10FFFF.
    const unsigned char low = i > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = i > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (i == text.size() || byte(i) < low || byte(i) > high) return {i, false};
  }
  return {length, true};
}

bool prints_as_itself(std::uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
}

// By code point: the byte that the character spells, or -1.
const std::vector<int>& byte_alphabet() {
  static const std::vector<int> table = [] {
    std::vector<int> bytes(0x100 + 68, -1);  // 68 bytes do not print as themselves
    std::size_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      bytes[prints_as_itself(byte) ? byte : next++] = static_cast<int>(byte);
    }
    return bytes;
  }();
  return table;
}

}  // namespace

std::size_t utf8_length(std::string_view text) { return next_step(text).length; }

std::optional<std::string> repaired_utf8(std::string_view text) {
  std::optional<std::string> out;
  for (std::size_t i = 0; i < text.size();) {
    const Step step = next_step(text.substr(i));
    if (!step.whole && !out) out = std::string(text.substr(0, i));
    if (out) *out += step.whole ? text.substr(i, step.length) : "\xef\xbf\xbd";
    i += step.length;
  }
  return out;
}

std::optional<std::string> from_byte_alphabet(std::string_view token) {
  const auto& alphabet = byte_alphabet();
  std::string bytes;
  for (std::size_t i = 0; i < token.size();) {
    const std::size_t length = utf8_length(token.substr(i));
    const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(token[i + k]); };
    std::size_t code_point = alphabet.size();  // the alphabet ends below U+0800
    if (length == 1) code_point = byte(0);
    if (length == 2) code_point = (byte(0) & 0x1fu) << 6 | (byte(1) & 0x3fu);
    if (code_point >= alphabet.size() || alphabet[code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet[code_point]);
    i += length;
  }
  return bytes;
}

}  // namespace sotto::models

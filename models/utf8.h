// UTF-8 and the byte alphabet of GPT-2's tokenizer.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace sotto::models {

// Bytes of the character that a valid, non-empty UTF-8 text starts with.
std::size_t utf8_length(std::string_view text);

// Reads what is not UTF-8 as U+FFFD, one for each maximal part of a character, as the Unicode
// Standard recommends (section 3.9). Nothing where the text is UTF-8 as it stands.
std::optional<std::string> repaired_utf8(std::string_view text);

// The bytes that a token stands for, each spelled as one printable character: itself where Latin-1
// has it printable, U+0100 + n for the n-th other byte. Nothing where the token, valid UTF-8, has
// any other character.
std::optional<std::string> from_byte_alphabet(std::string_view token);

}  // namespace sotto::models

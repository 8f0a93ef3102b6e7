// What a model is run on: a text, or the token ids of one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sotto::models {

// A file's text, each "\r\n" or "\r" as one "\n": a text gives the same tokens whichever system it
// was written on (and the same as in Python, whose open() reads it so). Throws FileError.
std::string read_text(const std::filesystem::path& path);

// Reads a text file of token ids, separated by white space or commas, or a JSON array of them.
// Throws FileError with the position and the value where one is no number in [0, vocab).
std::vector<std::int32_t> read_token_ids(const std::filesystem::path& path, std::int64_t vocab);

}  // namespace sotto::models

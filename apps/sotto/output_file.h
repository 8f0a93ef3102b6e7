#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <string_view>

namespace sotto::cli {

// Throws Error where a file of this name could not be written: to be asked before long work.
void check_writable(const std::filesystem::path& path);

// Writes a new file beside `path` and renames it, so that there is never half a file. Throws Error.
void write_file(const std::filesystem::path& path, const std::function<void(std::ostream&)>& write);
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace sotto::cli

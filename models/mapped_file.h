// A file's bytes, mapped into memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace sotto::models {

// Read-only; unmapped at the end of life. Who shortens the file meanwhile ends the program
// (SIGBUS), as with every mapping.
class MappedFile {
 public:
  // Throws FileError where it is no readable regular file with at least one byte.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& name() const { return name_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
};

}  // namespace sotto::models

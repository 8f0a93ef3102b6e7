// Damages a file in every place, for readers that must survive it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "models/file_error.h"
#include "tests/models/temporary_folder.h"

namespace sotto::models {

// Calls `read` with every prefix of the file, then with every one of its first `bytes` bytes
// replaced by several others. `read` may succeed or throw FileError; whatever else it throws passes
// through. Works in place, as it is thousands of files.
inline void damage_everywhere(const TemporaryFolder& folder, const std::string& name,
                              const std::string& content, std::size_t bytes,
                              const std::function<void()>& read) {
  const auto read_or_file_error = [&] {
    try {
      read();
    } catch (const FileError&) {
    }
  };
  const std::filesystem::path path = folder.write(name, content);
  for (std::size_t size = content.size(); size-- > 0;) {
    std::filesystem::resize_file(path, size);
    read_or_file_error();
  }
  folder.write(name, content);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto put = [&](int byte) {
      file.seekp(static_cast<std::streamoff>(i)).put(static_cast<char>(byte)).flush();
    };
    for (const int byte : {0x00, 0x01, 0x7f, 0x80, 0xff, int{'9'}, int{'-'}, int{'"'}, int{'['},
                           int{'}'}, content[i] ^ 1, content[i] ^ 0x40}) {
      put(byte);
      read_or_file_error();
    }
    put(content[i]);
  }
}

}  // namespace sotto::models

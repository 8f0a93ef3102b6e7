// Writes small GGUF files, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sotto::models {

// The bytes of a number, little-endian.
template <typename T>
std::string bytes_of(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

inline std::string gguf_string(const std::string& text) {
  return bytes_of<std::uint64_t>(text.size()) + text;
}

// A metadata value with its type in front.
inline std::string gguf_u32(std::uint32_t value) {
  return bytes_of<std::uint32_t>(4) + bytes_of(value);
}
inline std::string gguf_f32(float value) { return bytes_of<std::uint32_t>(6) + bytes_of(value); }
inline std::string gguf_text(const std::string& text) {
  return bytes_of<std::uint32_t>(8) + gguf_string(text);
}
inline std::string gguf_texts(const std::vector<std::string>& texts) {
  std::string bytes = bytes_of<std::uint32_t>(9) + bytes_of<std::uint32_t>(8) +
                      bytes_of<std::uint64_t>(texts.size());
  for (const std::string& text : texts) bytes += gguf_string(text);
  return bytes;
}

struct GgufTensor {
  std::string name;
  std::vector<std::uint64_t> dimensions;  // contiguous one first, as in the file
  std::uint32_t type = 0;
  std::string data;
  std::optional<std::uint64_t> offset = {};  // instead of the right one
};

struct GgufBuilder {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> tensor_count, value_count;  // instead of the right ones
  std::vector<std::pair<std::string, std::string>> values;
  std::vector<GgufTensor> tensors;

  void set(const std::string& key, const std::string& value) {
    for (auto& entry : values) {
      if (entry.first == key) {
        entry.second = value;
        return;
      }
    }
    values.emplace_back(key, value);
  }
  void erase(const std::string& key) {
    std::erase_if(values, [&](const auto& entry) { return entry.first == key; });
  }
  GgufTensor& tensor(const std::string& name) {
    for (GgufTensor& entry : tensors) {
      if (entry.name == name) return entry;
    }
    return tensors.emplace_back(GgufTensor{.name = name, .dimensions = {}, .data = {}});
  }

  std::string build() const {
    constexpr std::size_t kAlignment = 32;
    const auto pad = [](std::string& text) {
      text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment);
    };
    std::string file = magic + bytes_of(version) +
                       bytes_of<std::uint64_t>(tensor_count.value_or(tensors.size())) +
                       bytes_of<std::uint64_t>(value_count.value_or(values.size()));
    for (const auto& [key, value] : values) file += gguf_string(key) + value;
    std::string data;
    for (const GgufTensor& entry : tensors) {
      file += gguf_string(entry.name);
      file += bytes_of(static_cast<std::uint32_t>(entry.dimensions.size()));
      for (const std::uint64_t size : entry.dimensions) file += bytes_of(size);
      file += bytes_of(entry.type) + bytes_of<std::uint64_t>(entry.offset.value_or(data.size()));
      data += entry.data;
      pad(data);
    }
    pad(file);
    return file + data;
  }
};

}  // namespace sotto::models

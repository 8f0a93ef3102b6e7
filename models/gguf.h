// GGUF, the container of llama.cpp: metadata by key and tensors by name (github.com/ggml-org/ggml,
// docs/gguf.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/mapped_file.h"
#include "models/stored_tensor.h"

namespace sotto::models {

enum class GgufType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

struct GgufValue {
  GgufType type;
  GgufType element;                  // of an array
  std::uint64_t count;               // of an array
  std::span<const std::byte> bytes;  // encoded as in the file; of an array, its elements
};

// A file, mapped and checked: every key, string, array and tensor lies within it, names are unique
// and tensors do not overlap. Throws FileError.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);

  const std::string& name() const { return file_.name(); }
  const TensorMap& tensors() const { return tensors_; }  // alive as long as this

  // A value by its key: nothing where the file does not have it, FileError where its type is
  // another. Integers of every width count as integers where they fit, and as real numbers.
  bool has(std::string_view key) const { return metadata_.contains(key); }
  std::optional<std::string> text(std::string_view key) const;
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;
  std::optional<std::vector<std::string>> texts(std::string_view key) const;

 private:
  class Reader;

  void read_metadata(Reader& reader, std::uint64_t count);
  void read_tensors(Reader& reader, std::uint64_t count);
  void check_overlap() const;
  const GgufValue* find(std::string_view key) const;
  [[noreturn]] void fail_type(std::string_view key, const std::string& expected) const;

  MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  TensorMap tensors_;
};

}  // namespace sotto::models

#include "models/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "models/file_error.h"

namespace sotto::models {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxHeaderBytes = 65536;  // of an array that is no structure: far below

struct NpyType {
  std::string_view descr;
  StorageType type;
};

constexpr std::array kTypes = {
    NpyType{"<f4", StorageType::f32},    NpyType{"<f2", StorageType::f16},
    NpyType{"|i1", StorageType::i8},     NpyType{"|u1", StorageType::u8},
    NpyType{"<i4", StorageType::i32},    NpyType{"<i8", StorageType::i64},
    NpyType{"|b1", StorageType::boolean}};

StorageType storage_type(const std::string& file, const std::string& descr) {
  const auto fail = [&](const std::string& problem) { throw FileError(file, "descr", problem); };
  std::vector<std::string_view> supported;
  for (const NpyType& known : kTypes) {
    if (descr == known.descr) return known.type;
    supported.push_back(known.descr);
  }
  if (descr.starts_with('>')) fail(excerpt(descr) + " is big-endian; save it as little-endian");
  if (descr.starts_with("|O")) fail(excerpt(descr) + " is pickled objects; they are never loaded");
  fail(
      fmt::format("{} is not supported (supported: {}; bf16 and e4m3 have no type in NumPy: use "
                  ".safetensors)",
                  excerpt(descr), fmt::join(supported, ", ")));
  return {};
}

// The header is a Python dictionary with three keys, in any order:
//   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
class HeaderParser {
 public:
  HeaderParser(const std::string& file, std::string_view text) : file_(file), text_(text) {}

  struct Header {
    std::optional<std::string> descr;
    std::optional<bool> fortran_order;
    std::optional<std::vector<std::int64_t>> shape;
  };

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = string("header");
      expect(':');
      if (key == "descr") {
        once(key, header.descr.has_value());
        header.descr = descr();
      } else if (key == "fortran_order") {
        once(key, header.fortran_order.has_value());
        header.fortran_order = boolean(key);
      } else if (key == "shape") {
        once(key, header.shape.has_value());
        header.shape = shape();
      } else {
        fail("header", "has a key that the format does not know: " + excerpt(key));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (at_ != text_.size()) fail("header", "goes on after its dictionary");
    const auto require = [&](const char* key, bool present) {
      if (!present) fail(key, "is missing");
    };
    require("descr", header.descr.has_value());
    require("fortran_order", header.fortran_order.has_value());
    require("shape", header.shape.has_value());
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& field, const std::string& problem) const {
    throw FileError(file_, field, problem);
  }

  void once(const std::string& key, bool present) const {
    if (present) fail(key, "is there twice");
  }

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }

  bool accept(char c) {
    skip_spaces();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) {
      fail("header",
           fmt::format("expected '{}' at byte {}, got {}", c, at_, excerpt(text_.substr(at_, 20))));
    }
  }

  std::string string(const std::string& field) {
    skip_spaces();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    const std::size_t end =
        quote == '\'' || quote == '"' ? text_.find(quote, at_ + 1) : std::string_view::npos;
    if (end == std::string_view::npos) {
      fail(field, fmt::format("expected a string at byte {} of the header, got {}", at_,
                              excerpt(text_.substr(at_, 20))));
    }
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }

  std::string descr() {
    skip_spaces();
    if (text_.substr(at_).starts_with('[')) fail("descr", "is a structured type; expected numbers");
    return string("descr");
  }

  bool boolean(const std::string& field) {
    skip_spaces();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    fail(field, "must be True or False, got " + excerpt(text_.substr(at_, 20)));
  }

  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> sizes;
    if (!accept('(')) fail("shape", "must be a tuple, got " + excerpt(text_.substr(at_, 20)));
    while (!accept(')')) {
      skip_spaces();
      std::int64_t size = 0;
      const auto [end, error] =
          std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error != std::errc() || size < 0) {
        fail("shape", fmt::format("dimension {} must be an integer from 0 to 2^63 - 1, got {}",
                                  sizes.size(), excerpt(text_.substr(at_, 24))));
      }
      at_ = static_cast<std::size_t>(end - text_.data());
      sizes.push_back(size);
      if (!accept(',')) {
        if (!accept(')')) {
          fail("shape", fmt::format("expected ',' or ')' after dimension {}, got {}",
                                    sizes.size() - 1, excerpt(text_.substr(at_, 20))));
        }
        break;
      }
    }
    return sizes;
  }

  const std::string& file_;
  std::string_view text_;
  std::size_t at_ = 0;
};

// The header's text; what is left of `bytes` is the data.
std::string_view take_header(const std::string& file, std::string_view& bytes) {
  const auto take = [&](std::size_t count, const char* field) {
    if (bytes.size() < count) {
      throw FileError(file, field,
                      fmt::format("the file ends within it: expected {} bytes, {} are "
                                  "left",
                                  count, bytes.size()));
    }
    const std::string_view taken = bytes.substr(0, count);
    bytes.remove_prefix(count);
    return taken;
  };
  if (!bytes.starts_with(kMagic)) {
    throw FileError(file, "magic",
                    "expected \"\\x93NUMPY\", got " + excerpt(bytes.substr(0, kMagic.size())));
  }
  bytes.remove_prefix(kMagic.size());
  const std::string_view version = take(2, "version");
  const int major = static_cast<unsigned char>(version[0]);
  if (major < 1 || major > 3 || version[1] != 0) {
    throw FileError(file, "version",
                    fmt::format("expected 1.0, 2.0 or 3.0, got {}.{}", major,
                                static_cast<unsigned char>(version[1])));
  }
  const std::string_view length = take(major == 1 ? 2 : 4, "header length");
  std::uint32_t header_bytes = 0;
  std::memcpy(&header_bytes, length.data(), length.size());
  if (header_bytes > kMaxHeaderBytes) {
    throw FileError(file, "header length",
                    fmt::format("must be at most {}, got {}", kMaxHeaderBytes, header_bytes));
  }
  return take(header_bytes, "header");
}

}  // namespace

NpyFile::NpyFile(const std::filesystem::path& path) : file_(path) {
  const std::string& name = file_.name();
  std::string_view bytes = file_.text();
  const std::string_view text = take_header(name, bytes);
  const auto header = HeaderParser(name, text).parse();
  tensor_ = {
      .file = name, .type = storage_type(name, *header.descr), .shape = *header.shape, .data = {}};
  if (*header.fortran_order) {
    throw FileError(name, "fortran_order", "must be False (C order): save ascontiguousarray()");
  }
  const auto size = byte_size(tensor_.type, tensor_.shape);
  if (!size) throw FileError(name, "shape", "overflows");
  if (static_cast<std::uint64_t>(*size) != bytes.size()) {
    throw FileError(name, "data",
                    fmt::format("must be {} bytes, as {} needs, got {}", *size, to_string(tensor_),
                                bytes.size()));
  }
  tensor_.data = std::as_bytes(std::span(bytes));
}

bool has_npy_type(StorageType type) {
  return std::any_of(kTypes.begin(), kTypes.end(),
                     [&](const NpyType& known) { return known.type == type; });
}

void write_npy(std::ostream& file, const StoredTensor& tensor) {
  const auto known = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const NpyType& entry) { return entry.type == tensor.type; });
  std::string header =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", known->descr,
                  fmt::join(tensor.shape, ", "), tensor.shape.size() == 1 ? "," : "");
  // The data begins at a multiple of 64, and the header ends with a new line.
  const std::size_t before = kMagic.size() + 2 + sizeof(std::uint16_t);
  header.resize((before + header.size() + 1 + 63) / 64 * 64 - before - 1, ' ');
  header += '\n';
  const auto length = static_cast<std::uint16_t>(header.size());
  file << kMagic << '\1' << '\0';
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << header;
  file.write(reinterpret_cast<const char*>(tensor.data.data()),
             static_cast<std::streamsize>(tensor.data.size()));
}

}  // namespace sotto::models

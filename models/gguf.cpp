#include "models/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "models/file_error.h"

namespace sotto::models {
namespace {

constexpr std::array<std::string_view, 13> kTypeNames{
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
constexpr int kMaxArrayDepth = 4;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::int64_t kDefaultAlignment = 32;
constexpr std::string_view kAlignmentKey = "general.alignment";

// The least that an entry takes in the file: a count that needs more is wrong, whatever follows.
constexpr std::uint64_t kMinKeyValueBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorInfoBytes = 8 + 4 + 8 + 4 + 8;
constexpr std::uint64_t kMinStringBytes = 8;
constexpr std::uint64_t kMinArrayBytes = 4 + 8;

// GGML's numbers for what tensors are stored as; those without a StorageType are only named.
struct GgmlType {
  std::uint32_t number;
  std::string_view name;
  std::optional<StorageType> type;
};
constexpr std::array kGgmlTypes{
    GgmlType{0, "F32", StorageType::f32},
    GgmlType{1, "F16", StorageType::f16},
    GgmlType{2, "Q4_0", StorageType::q4_0},
    GgmlType{3, "Q4_1", StorageType::q4_1},
    GgmlType{6, "Q5_0", {}},
    GgmlType{7, "Q5_1", {}},
    GgmlType{8, "Q8_0", StorageType::q8_0},
    GgmlType{9, "Q8_1", {}},
    GgmlType{10, "Q2_K", {}},
    GgmlType{11, "Q3_K", {}},
    GgmlType{12, "Q4_K", {}},
    GgmlType{13, "Q5_K", {}},
    GgmlType{14, "Q6_K", {}},
    GgmlType{15, "Q8_K", {}},
    GgmlType{16, "IQ2_XXS", {}},
    GgmlType{17, "IQ2_XS", {}},
    GgmlType{18, "IQ3_XXS", {}},
    GgmlType{19, "IQ1_S", {}},
    GgmlType{20, "IQ4_NL", {}},
    GgmlType{21, "IQ3_S", {}},
    GgmlType{22, "IQ2_S", {}},
    GgmlType{23, "IQ4_XS", {}},
    GgmlType{24, "I8", {}},
    GgmlType{25, "I16", {}},
    GgmlType{26, "I32", {}},
    GgmlType{27, "I64", {}},
    GgmlType{28, "F64", {}},
    GgmlType{29, "IQ1_M", {}},
    GgmlType{30, "BF16", StorageType::bf16},
    GgmlType{34, "TQ1_0", {}},
    GgmlType{35, "TQ2_0", {}},
    GgmlType{39, "MXFP4", {}},
};

StorageType storage_type(const std::string& file, const std::string& tensor, std::uint32_t number) {
  const auto* const known =
      std::find_if(kGgmlTypes.begin(), kGgmlTypes.end(),
                   [&](const GgmlType& type) { return type.number == number; });
  if (known != kGgmlTypes.end() && known->type) return *known->type;
  const std::string name =
      known == kGgmlTypes.end() ? fmt::format("number {}", number) : std::string(known->name);
  throw FileError(
      file, tensor,
      "type " + name + " is not supported (supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1)");
}

// Bytes of one element; 0 for strings and arrays, whose size is in the file.
std::uint64_t fixed_size(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    case GgufType::string:
    case GgufType::array:
      return 0;
  }
  return 0;
}

template <typename T>
T decode(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

}  // namespace

// Walks through the file; whatever it gives lies within it.
class GgufFile::Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file) {}

  std::uint64_t position() const { return position_; }

  std::span<const std::byte> bytes(std::uint64_t size, const std::string& field) {
    if (size > left()) {
      throw FileError(file_.name(), field,
                      fmt::format("needs {} bytes at offset {}, but the file ends at {}", size,
                                  position_, file_.bytes().size()));
    }
    const auto result = file_.bytes().subspan(position_, size);
    position_ += size;
    return result;
  }

  template <typename T>
  T number(const std::string& field) {
    return decode<T>(bytes(sizeof(T), field).data());
  }

  // A number of entries of at least `entry_bytes` each that follow.
  std::uint64_t count(std::uint64_t entry_bytes, const std::string& field) {
    const auto value = number<std::uint64_t>(field);
    if (value > left() / entry_bytes) {
      throw FileError(
          file_.name(), field,
          fmt::format("is {}, but the file has room for at most {}", value, left() / entry_bytes));
    }
    return value;
  }

  std::string_view text(const std::string& field) {
    const auto length = number<std::uint64_t>(field);
    const auto characters = bytes(length, field);
    return {reinterpret_cast<const char*>(characters.data()), characters.size()};
  }

  GgufType type(const std::string& field) {
    const auto number_of_type = number<std::uint32_t>(field);
    if (number_of_type >= kTypeNames.size()) {
      throw FileError(file_.name(), field,
                      fmt::format("unknown value type {} (known: 0 to {})", number_of_type,
                                  kTypeNames.size() - 1));
    }
    return static_cast<GgufType>(number_of_type);
  }

  GgufValue value(const std::string& field) {
    GgufValue result{type(field), {}, 0, {}};
    if (result.type == GgufType::array) {
      result.element = type(field);
      result.count = array_count(result.element, field);
    }
    const std::uint64_t begin = position_;
    if (result.type == GgufType::array) {
      skip_elements(result.element, result.count, field, 1);
    } else if (result.type == GgufType::string) {
      text(field);
    } else {
      bytes(fixed_size(result.type), field);
    }
    result.bytes = file_.bytes().subspan(begin, position_ - begin);
    return result;
  }

 private:
  std::uint64_t left() const { return file_.bytes().size() - position_; }

  std::uint64_t array_count(GgufType element, const std::string& field) {
    const std::uint64_t size = element == GgufType::string  ? kMinStringBytes
                               : element == GgufType::array ? kMinArrayBytes
                                                            : fixed_size(element);
    return count(size, field);
  }

  void skip_elements(GgufType element, std::uint64_t count, const std::string& field, int depth) {
    if (depth > kMaxArrayDepth) {
      throw FileError(file_.name(), field,
                      fmt::format("arrays are nested more than {} deep", kMaxArrayDepth));
    }
    if (element == GgufType::array) {
      for (std::uint64_t i = 0; i < count; ++i) {
        const GgufType inner = type(field);
        skip_elements(inner, array_count(inner, field), field, depth + 1);
      }
    } else if (element == GgufType::string) {
      for (std::uint64_t i = 0; i < count; ++i) text(field);
    } else {
      bytes(count * fixed_size(element), field);
    }
  }

  const MappedFile& file_;
  std::uint64_t position_ = 0;
};

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) {
  Reader reader(file_);
  const auto magic = reader.bytes(4, "magic");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) {
    throw FileError(name(), "magic", "is not \"GGUF\", so this is no GGUF file");
  }
  const auto version = reader.number<std::uint32_t>("version");
  if (version != 2 && version != 3) {
    // The version is small, so its bytes tell the order.
    const bool swapped = version != 0 && (version & 0xffff) == 0;
    throw FileError(name(), "version",
                    swapped ? "the file is big-endian, supported is little-endian"
                            : fmt::format("{} is not supported (supported: 2, 3)", version));
  }
  const auto tensor_count = reader.count(kMinTensorInfoBytes, "tensor_count");
  const auto value_count = reader.count(kMinKeyValueBytes, "metadata_kv_count");
  read_metadata(reader, value_count);
  read_tensors(reader, tensor_count);
  check_overlap();
}

void GgufFile::read_metadata(Reader& reader, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string place = fmt::format("metadata_kv[{}].key", i);
    const std::string key(reader.text(place));
    if (key.empty()) throw FileError(name(), place, "is empty");
    const GgufValue value = reader.value(key);
    if (!metadata_.emplace(key, value).second) {
      throw FileError(name(), key, "the key is there twice");
    }
  }
}

void GgufFile::read_tensors(Reader& reader, std::uint64_t count) {
  const std::int64_t alignment = integer(kAlignmentKey).value_or(kDefaultAlignment);
  if (alignment <= 0 || alignment > std::numeric_limits<std::int32_t>::max() ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment))) {
    throw FileError(name(), std::string(kAlignmentKey),
                    fmt::format("must be a power of two below 2^31, got {}", alignment));
  }

  std::map<std::string, std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string place = fmt::format("tensor_infos[{}].name", i);
    const std::string tensor_name(reader.text(place));
    if (tensor_name.empty()) throw FileError(name(), place, "is empty");
    const auto fail = [&](const std::string& problem) {
      throw FileError(name(), tensor_name, problem);
    };
    const auto dimensions = reader.number<std::uint32_t>(tensor_name);
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      fail(fmt::format("must have 1 to {} dimensions, got {}", kMaxDimensions, dimensions));
    }
    StoredTensor tensor{.file = name(), .type = {}, .shape = {}, .data = {}};
    for (std::uint32_t d = 0; d < dimensions; ++d) {
      const auto size = reader.number<std::uint64_t>(tensor_name);
      if (size == 0 ||
          size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail(fmt::format("dimension {} must be in [1, 2^63), got {}", d, size));
      }
      // GGUF writes the contiguous dimension first.
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
    }
    tensor.type = storage_type(name(), tensor_name, reader.number<std::uint32_t>(tensor_name));
    const auto offset = reader.number<std::uint64_t>(tensor_name);
    if (offset % static_cast<std::uint64_t>(alignment) != 0) {
      fail(fmt::format("offset {} is not a multiple of the alignment {}", offset, alignment));
    }
    if (!tensors_.emplace(tensor_name, std::move(tensor)).second) fail("the tensor is there twice");
    offsets[tensor_name] = offset;
  }

  const auto mask = static_cast<std::uint64_t>(alignment) - 1;
  const std::uint64_t begin = (reader.position() + mask) & ~mask;
  const std::uint64_t end = file_.bytes().size();
  for (auto& [tensor_name, tensor] : tensors_) {
    const auto size = byte_size(tensor.type, tensor.shape);
    if (!size) {
      throw FileError(name(), tensor_name,
                      fmt::format("shape [{}] overflows or is not a whole number of blocks of 32",
                                  fmt::join(tensor.shape, ", ")));
    }
    const std::uint64_t offset = offsets[tensor_name];
    const std::uint64_t room = begin < end && offset < end - begin ? end - begin - offset : 0;
    if (static_cast<std::uint64_t>(*size) > room) {
      throw FileError(name(), tensor_name,
                      fmt::format("its {} bytes at offset {} go past the end of the file ({} bytes "
                                  "of tensor data)",
                                  *size, offset, begin < end ? end - begin : 0));
    }
    tensor.data = file_.bytes().subspan(begin + offset, static_cast<std::uint64_t>(*size));
  }
}

void GgufFile::check_overlap() const {
  std::vector<const TensorMap::value_type*> sorted;
  for (const auto& entry : tensors_) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) {
    return a->second.data.data() < b->second.data.data();
  });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const auto& before = sorted[i - 1]->second.data;
    if (before.data() + before.size() > sorted[i]->second.data.data()) {
      throw FileError(name(), sorted[i]->first, "overlaps tensor " + excerpt(sorted[i - 1]->first));
    }
  }
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

void GgufFile::fail_type(std::string_view key, const std::string& expected) const {
  const auto type = static_cast<std::size_t>(find(key)->type);
  throw FileError(name(), std::string(key),
                  fmt::format("must be {}, got a value of type {}", expected, kTypeNames[type]));
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::string) fail_type(key, "a string");
  const auto characters = value->bytes.subspan(sizeof(std::uint64_t));
  return std::string(reinterpret_cast<const char*>(characters.data()), characters.size());
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::byte* bytes = value->bytes.data();
  switch (value->type) {
    case GgufType::u8:
      return decode<std::uint8_t>(bytes);
    case GgufType::i8:
      return decode<std::int8_t>(bytes);
    case GgufType::u16:
      return decode<std::uint16_t>(bytes);
    case GgufType::i16:
      return decode<std::int16_t>(bytes);
    case GgufType::u32:
      return decode<std::uint32_t>(bytes);
    case GgufType::i32:
      return decode<std::int32_t>(bytes);
    case GgufType::i64:
      return decode<std::int64_t>(bytes);
    case GgufType::u64: {
      const auto number = decode<std::uint64_t>(bytes);
      if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        throw FileError(name(), std::string(key), fmt::format("{} is too large", number));
      }
      return static_cast<std::int64_t>(number);
    }
    default:
      fail_type(key, "an integer");
  }
}

std::optional<double> GgufFile::real(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  switch (value->type) {
    case GgufType::f32:
      return decode<float>(value->bytes.data());
    case GgufType::f64:
      return decode<double>(value->bytes.data());
    case GgufType::boolean:
    case GgufType::string:
    case GgufType::array:
      fail_type(key, "a number");
    default:
      return static_cast<double>(*integer(key));
  }
}

std::optional<std::vector<std::string>> GgufFile::texts(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::array || value->element != GgufType::string) {
    fail_type(key, "an array of strings");
  }
  std::vector<std::string> result;
  const std::byte* at = value->bytes.data();
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto length = decode<std::uint64_t>(at);
    result.emplace_back(reinterpret_cast<const char*>(at + sizeof(length)), length);
    at += sizeof(length) + length;
  }
  return result;
}

}  // namespace sotto::models

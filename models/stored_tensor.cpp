#include "models/stored_tensor.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "sotto/numerics.h"

namespace sotto::models {
namespace {

static_assert(std::endian::native == std::endian::little, "model files are little-endian");

constexpr int kBlock = 32;  // elements

struct Layout {
  std::int64_t block_elements, block_bytes;
};

Layout layout_of(StorageType type) {
  switch (type) {
    case StorageType::i64:
      return {1, 8};
    case StorageType::f32:
    case StorageType::i32:
      return {1, 4};
    case StorageType::f16:
    case StorageType::bf16:
      return {1, 2};
    case StorageType::e4m3:
    case StorageType::i8:
    case StorageType::u8:
    case StorageType::boolean:
      return {1, 1};
    case StorageType::q8_0:
      return {kBlock, 2 + kBlock};
    case StorageType::q4_0:
      return {kBlock, 2 + kBlock / 2};
    case StorageType::q4_1:
      return {kBlock, 4 + kBlock / 2};
  }
  return {1, 1};
}

template <typename T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

float read_f16(const std::byte* from) {
  return static_cast<float>(f16::from_bits(read<std::uint16_t>(from)));
}

// The low nibbles are a block's first half, the high ones its second.
void unpack_nibbles(const std::byte* packed, float* out) {
  for (int i = 0; i < kBlock / 2; ++i) {
    const auto byte = std::to_integer<int>(packed[i]);
    out[i] = static_cast<float>(byte & 15);
    out[i + kBlock / 2] = static_cast<float>(byte >> 4);
  }
}

void convert_block(StorageType type, const std::byte* from, float* out) {
  switch (type) {
    case StorageType::f32:
      *out = read<float>(from);
      break;
    case StorageType::f16:
      *out = read_f16(from);
      break;
    case StorageType::bf16:
      *out = static_cast<float>(bf16::from_bits(read<std::uint16_t>(from)));
      break;
    case StorageType::e4m3:
      *out = static_cast<float>(e4m3::from_bits(read<std::uint8_t>(from)));
      break;
    case StorageType::i8:
      *out = read<std::int8_t>(from);
      break;
    case StorageType::u8:
      *out = read<std::uint8_t>(from);
      break;
    case StorageType::i32:
      *out = static_cast<float>(read<std::int32_t>(from));
      break;
    case StorageType::i64:
      *out = static_cast<float>(read<std::int64_t>(from));
      break;
    case StorageType::boolean:
      *out = read<std::uint8_t>(from) != 0 ? 1.0f : 0.0f;
      break;
    case StorageType::q8_0: {
      const float scale = read_f16(from);
      for (int i = 0; i < kBlock; ++i) {
        out[i] = static_cast<float>(read<std::int8_t>(from + 2 + i)) * scale;
      }
      break;
    }
    case StorageType::q4_0: {
      const float scale = read_f16(from);
      unpack_nibbles(from + 2, out);
      for (int i = 0; i < kBlock; ++i) out[i] = (out[i] - 8) * scale;
      break;
    }
    case StorageType::q4_1: {
      const float scale = read_f16(from);
      const float minimum = read_f16(from + 2);
      unpack_nibbles(from + 4, out);
      for (int i = 0; i < kBlock; ++i) out[i] = out[i] * scale + minimum;
      break;
    }
  }
}

}  // namespace

std::string_view storage_name(StorageType type) {
  switch (type) {
    case StorageType::f32:
      return "F32";
    case StorageType::f16:
      return "F16";
    case StorageType::bf16:
      return "BF16";
    case StorageType::e4m3:
      return "F8_E4M3";
    case StorageType::i8:
      return "I8";
    case StorageType::u8:
      return "U8";
    case StorageType::i32:
      return "I32";
    case StorageType::i64:
      return "I64";
    case StorageType::boolean:
      return "BOOL";
    case StorageType::q8_0:
      return "Q8_0";
    case StorageType::q4_0:
      return "Q4_0";
    case StorageType::q4_1:
      return "Q4_1";
  }
  return "";
}

std::string to_string(const StoredTensor& tensor) {
  return fmt::format("{} [{}]", storage_name(tensor.type), fmt::join(tensor.shape, ", "));
}

std::optional<std::int64_t> byte_size(StorageType type, std::span<const std::int64_t> shape) {
  const auto [block_elements, block_bytes] = layout_of(type);
  if (shape.empty()) return block_elements == 1 ? std::optional(block_bytes) : std::nullopt;
  if (shape.back() % block_elements != 0) return std::nullopt;
  std::int64_t bytes = block_bytes;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::int64_t count = i + 1 == shape.size() ? shape[i] / block_elements : shape[i];
    if (count < 0 || __builtin_mul_overflow(bytes, count, &bytes)) return std::nullopt;
  }
  return bytes;
}

std::vector<float> to_float(const StoredTensor& tensor) {
  const auto [block_elements, block_bytes] = layout_of(tensor.type);
  const std::size_t blocks = tensor.data.size() / static_cast<std::size_t>(block_bytes);
  std::vector<float> values(blocks * static_cast<std::size_t>(block_elements));
  for (std::size_t i = 0; i < blocks; ++i) {
    convert_block(tensor.type, tensor.data.data() + i * block_bytes,
                  values.data() + i * block_elements);
  }
  return values;
}

}  // namespace sotto::models

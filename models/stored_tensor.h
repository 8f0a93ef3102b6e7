// A tensor as a file stores it, and its values in fp32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sotto::models {

// The last three are GGML's: blocks of 32 elements along the last dimension, each with an fp16
// scale d (and minimum m): q8_0 d * int8; q4_0 d * (u4 - 8); q4_1 d * u4 + m.
enum class StorageType { f32, f16, bf16, e4m3, i8, u8, i32, i64, boolean, q8_0, q4_0, q4_1 };

// As files spell it: "F32", "F8_E4M3", "BOOL", "Q4_1".
std::string_view storage_name(StorageType type);

struct StoredTensor {
  std::string file;  // where it lies, for errors
  StorageType type;
  std::vector<std::int64_t> shape;  // row-major: the last dimension is contiguous
  std::span<const std::byte> data;  // exactly byte_size(type, shape); no alignment is promised
};

using TensorMap = std::map<std::string, StoredTensor, std::less<>>;

// Bytes of such a tensor. Nothing where a dimension is negative, a product overflows or the last
// dimension is no whole number of blocks.
std::optional<std::int64_t> byte_size(StorageType type, std::span<const std::int64_t> shape);

// "F32 [2, 8]", for messages.
std::string to_string(const StoredTensor& tensor);

std::vector<float> to_float(const StoredTensor& tensor);

}  // namespace sotto::models

#include "run/tensor_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "models/file_error.h"

namespace sotto::cli {

using models::FileError;
using models::StorageType;
using models::StoredTensor;

namespace {

constexpr std::string_view kSafetensors = ".safetensors";

std::optional<Dtype> dtype_of(StorageType type) {
  switch (type) {
    case StorageType::f32:
      return Dtype::f32;
    case StorageType::f16:
      return Dtype::f16;
    case StorageType::bf16:
      return Dtype::bf16;
    case StorageType::e4m3:
      return Dtype::e4m3;
    case StorageType::i8:
      return Dtype::i8;
    case StorageType::i32:
    case StorageType::i64:
      return Dtype::i32;
    case StorageType::boolean:
      return Dtype::boolean;
    default:
      return std::nullopt;
  }
}

std::vector<std::int32_t> narrow(const StoredTensor& stored, const std::string& field) {
  std::vector<std::int32_t> out(stored.data.size() / sizeof(std::int64_t));
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::int64_t value = 0;
    std::memcpy(&value, stored.data.data() + i * sizeof(value), sizeof(value));
    out[i] = static_cast<std::int32_t>(value);
    if (out[i] != value)
      throw FileError(stored.file, fmt::format("{}[{}]", field, i),
                      fmt::format("must fit 32 bits, got {}", value));
  }
  return out;
}

}  // namespace

std::optional<TensorPlace> parse_place(const std::string& text) {
  const std::size_t colon = text.find(std::string(kSafetensors) + ":");
  if (colon != std::string::npos) {
    const std::size_t end = colon + kSafetensors.size();
    return TensorPlace{text.substr(0, end), text.substr(end + 1)};
  }
  if (text.ends_with(kSafetensors) || text.ends_with(".npy")) return TensorPlace{text, ""};
  return std::nullopt;
}

Tensor contiguous_view(const std::string& what, void* data, Dtype dtype,
                       std::span<const std::int64_t> shape) {
  Tensor tensor;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  std::int64_t stride = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    tensor.strides[d] = stride;
    // Where a size is 0, the others are anything.
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(1, shape[d]), &stride))
      throw Error(fmt::format("{}: sizes overflow 64 bits: [{}]", what, fmt::join(shape, ", ")));
  }
  return tensor;
}

const models::TensorMap& TensorFiles::tensors(const std::string& safetensors) {
  auto& file = safetensors_[safetensors];
  if (!file) file = std::make_unique<models::SafetensorsFile>(safetensors);
  return file->tensors();
}

const StoredTensor& TensorFiles::stored(const TensorPlace& place) {
  if (place.file.ends_with(".npy")) {
    auto& file = npy_[place.file];
    if (!file) file = std::make_unique<models::NpyFile>(place.file);
    return file->tensor();
  }
  const models::TensorMap& all = tensors(place.file);
  const auto found = all.find(place.name);
  if (found != all.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [name, tensor] : all) names.push_back(name);
  if (names.size() > 20) {
    names.resize(20);
    names.emplace_back("...");
  }
  throw FileError(place.file, place.name,
                  fmt::format("there is no such tensor (there are: {})",
                              models::excerpt(fmt::format("{}", fmt::join(names, ", ")))));
}

Tensor TensorFiles::load(const TensorPlace& place) {
  return to_tensor(stored(place), place.name.empty() ? "data" : place.name);
}

std::byte* TensorFiles::copy(std::span<const std::byte> data) {
  return copies_.emplace_back(data.begin(), data.end()).data();
}

Tensor TensorFiles::to_tensor(const StoredTensor& stored, const std::string& field) {
  const auto dtype = dtype_of(stored.type);
  if (!dtype)
    throw FileError(
        stored.file, field,
        fmt::format("{} is no dtype of attention's arguments", models::storage_name(stored.type)));
  if (stored.shape.size() > Tensor::kMaxRank)
    throw FileError(stored.file, field,
                    fmt::format("must have at most {} dimensions, got {}", Tensor::kMaxRank,
                                to_string(stored)));
  const std::vector<std::int64_t> scalar = {1};
  Tensor tensor = contiguous_view(stored.file + ": " + field, nullptr, *dtype,
                                  stored.shape.empty() ? scalar : stored.shape);
  const auto address = reinterpret_cast<std::uintptr_t>(stored.data.data());
  if (stored.type == StorageType::i64) {
    const std::vector<std::int32_t> narrowed = narrow(stored, field);
    tensor.data = copy(std::as_bytes(std::span(narrowed)));
  } else if (address % static_cast<std::uintptr_t>(dtype_size(*dtype)) != 0) {
    tensor.data = copy(stored.data);
  } else {
    tensor.data = const_cast<std::byte*>(stored.data.data());  // inputs are never written
  }
  // An empty copy has no memory; the library asks for a pointer all the same.
  if (tensor.data == nullptr) tensor.data = copy(std::vector<std::byte>(1));
  return tensor;
}

bool TensorFiles::reads(const std::string& file) const {
  const auto same = [&](const auto& opened) {
    std::error_code missing;  // a file that is not there is nobody's
    return opened.first == file || std::filesystem::equivalent(opened.first, file, missing);
  };
  return std::any_of(safetensors_.begin(), safetensors_.end(), same) ||
         std::any_of(npy_.begin(), npy_.end(), same);
}

}  // namespace sotto::cli

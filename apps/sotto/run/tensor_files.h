// Tensors of .safetensors and .npy files, as the library sees them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/npy.h"
#include "models/safetensors.h"
#include "sotto/tensor.h"

namespace sotto::cli {

// Where a tensor is: FILE.npy, FILE.safetensors:NAME, or FILE.safetensors with the name left to the
// reader.
struct TensorPlace {
  std::string file, name;
  std::string text() const { return name.empty() ? file : file + ":" + name; }
};

// Whether the text is one of these (and not a tensor's name alone).
std::optional<TensorPlace> parse_place(const std::string& text);

// A contiguous view, the last dimension fastest. Throws Error, which names `what`, where its sizes
// overflow.
Tensor contiguous_view(const std::string& what, void* data, Dtype dtype,
                       std::span<const std::int64_t> shape);

// Opens each file once and keeps what was read from it alive. Throws models::FileError.
class TensorFiles {
 public:
  const models::TensorMap& tensors(const std::string& safetensors);

  // The tensor as the file has it.
  const models::StoredTensor& stored(const TensorPlace& place);

  // The tensor as a view of the file's memory; a copy where it is not aligned there, and where it
  // is I64, which becomes i32, the library's only integers.
  Tensor load(const TensorPlace& place);

  // Whether a tensor was asked for of this file, by whatever path.
  bool reads(const std::string& file) const;

 private:
  Tensor to_tensor(const models::StoredTensor& stored, const std::string& field);
  std::byte* copy(std::span<const std::byte> data);

  std::map<std::string, std::unique_ptr<models::SafetensorsFile>> safetensors_;
  std::map<std::string, std::unique_ptr<models::NpyFile>> npy_;
  std::vector<std::vector<std::byte>> copies_;
};

}  // namespace sotto::cli

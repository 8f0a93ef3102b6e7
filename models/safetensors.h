// Safetensors, the container of Hugging Face (github.com/huggingface/safetensors).
#pragma once

#include <array>
#include <filesystem>
#include <iosfwd>
#include <span>

#include "models/mapped_file.h"
#include "models/stored_tensor.h"

namespace sotto::models {

// What of the format's dtypes is read and written.
inline constexpr std::array kSafetensorsTypes = {
    StorageType::f32, StorageType::f16, StorageType::bf16, StorageType::e4m3,   StorageType::i8,
    StorageType::u8,  StorageType::i32, StorageType::i64,  StorageType::boolean};

// A file, mapped and checked: the header is JSON of the format's shape, and the tensors cover the
// data without overlap or hole, as the format asks. Throws FileError, also for a tensor of a type
// that is not among `allowed`.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path,
                           std::span<const StorageType> allowed = kSafetensorsTypes);

  const std::string& name() const { return file_.name(); }
  const TensorMap& tensors() const { return tensors_; }  // data alive as long as this

 private:
  MappedFile file_;
  TensorMap tensors_;
};

// Writes a whole file. Types: kSafetensorsTypes. Tensors of wide elements come first, so that all
// are aligned to their elements in a file that is mapped.
void write_safetensors(std::ostream& file, const TensorMap& tensors);

}  // namespace sotto::models

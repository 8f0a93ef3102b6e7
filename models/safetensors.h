// Safetensors, the container of Hugging Face (github.com/huggingface/safetensors).
#pragma once

#include <filesystem>

#include "models/mapped_file.h"
#include "models/stored_tensor.h"

namespace sotto::models {

// A file, mapped and checked: the header is JSON of the format's shape, and the tensors cover the
// data without overlap or hole, as the format asks. Throws FileError.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::string& name() const { return file_.name(); }
  const TensorMap& tensors() const { return tensors_; }  // data alive as long as this

 private:
  MappedFile file_;
  TensorMap tensors_;
};

}  // namespace sotto::models

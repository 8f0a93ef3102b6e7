// .npy, NumPy's file of one array (numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#pragma once

#include <filesystem>
#include <iosfwd>

#include "models/mapped_file.h"
#include "models/stored_tensor.h"

namespace sotto::models {

// A file, mapped and checked. Versions 1 to 3 of the format; float32, float16, int8, uint8, int32,
// int64 and bool, little-endian, in C order. Nothing else is read: there are no numbers of bf16 or
// e4m3 in NumPy (what ml_dtypes saves as such says only how wide they are), and pickled objects run
// programs. Throws FileError.
class NpyFile {
 public:
  explicit NpyFile(const std::filesystem::path& path);

  const StoredTensor& tensor() const { return tensor_; }  // data alive as long as this

 private:
  MappedFile file_;
  StoredTensor tensor_;
};

// Whether NumPy has numbers of this type.
bool has_npy_type(StorageType type);

// Writes a whole file, version 1.0. The type must be one that has_npy_type().
void write_npy(std::ostream& file, const StoredTensor& tensor);

}  // namespace sotto::models

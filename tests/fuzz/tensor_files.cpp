// .safetensors and .npy files: what one reads must be readable.
#include "file.h"
#include "models/npy.h"
#include "models/safetensors.h"
#include "target.h"

using namespace sotto;

namespace {

// Looks at every byte of a tensor.
void read_all(const models::StoredTensor& tensor) {
  std::byte all{};
  for (const std::byte byte : tensor.data) all ^= byte;
  static volatile std::byte sink;
  sink = all;
  static_cast<void>(sink);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = fuzz::file_of(data, size);
  fuzz::attempt([&] {
    const models::SafetensorsFile file(path);
    for (const auto& [name, tensor] : file.tensors()) read_all(tensor);
  });
  fuzz::attempt([&] {
    const models::NpyFile file(path);
    read_all(file.tensor());
  });
  return 0;
}

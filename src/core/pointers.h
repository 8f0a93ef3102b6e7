// Whether the pointers of tensors that are said to be on a GPU are that GPU's memory; on every run.
// Looks at none of it.
#pragma once

#include "core/each_tensor.h"
#include "cuda/memory.h"

namespace sotto::core {

template <class Args>
void check_pointers(const Args& args, Stream stream) {
  each_tensor(args, [=](const char* name, Access, const Tensor& tensor) {
    if (tensor.device.type == DeviceType::cuda && tensor.numel() > 0) {
      cuda::check_pointer(name, tensor.data, tensor.device, stream);
    }
  });
}

}  // namespace sotto::core

// Scales as kernels see them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "sotto/attention.h"

namespace sotto::cuda {

// A caller's scales; see Scale.
struct ScaleView {
  float* data = nullptr;  // null: 1
  Granularity granularity = Granularity::tensor;
  bool packed = false;
  std::int64_t strides[3] = {};
  int heads_per_value = 1;
  std::int64_t block = 1;
  std::int64_t blocks = 0;  // packed: of a head
  const std::int32_t* cu_blocks = nullptr;
  std::int64_t cu_stride = 1;

  // `row`: in the tensor's dimension of tokens; `token`: in the sequence.
  __device__ float at(int batch, int head, int row, int token) const {
    return data == nullptr ? 1.0f : data[offset(batch, head, row, token)];
  }
  __device__ std::int64_t offset(int batch, int head, int row, int token) const {
    switch (granularity) {
      case Granularity::tensor:
        return 0;
      case Granularity::head:
      case Granularity::kv_head:
        return batch * strides[0] + head / heads_per_value * strides[1];
      case Granularity::block:
        return packed ? head * strides[0] + block_of(batch, token) * strides[1]
                      : batch * strides[0] + head * strides[1] + token / block * strides[2];
      case Granularity::token:
        return packed ? row * strides[0] + head * strides[1]
                      : batch * strides[0] + row * strides[1] + head * strides[2];
    }
    return 0;
  }

 private:
  // Offsets on the device are clamped to what memory there is.
  __device__ std::int64_t block_of(int batch, int token) const {
    const std::int64_t at = cu_blocks[batch * cu_stride] + token / block;
    return at < 0 ? 0 : at < blocks ? at : blocks - 1;
  }
};

// heads: of the tensor that is scaled.
inline ScaleView scale_view(const Scale& scale, int heads) {
  ScaleView view;
  if (!scale) return view;
  view.data = static_cast<float*>(scale.values.data);
  view.granularity = scale.granularity;
  view.packed = static_cast<bool>(scale.cu_blocks) ||
                (scale.granularity == Granularity::token && scale.values.rank == 2);
  for (int d = 0; d < scale.values.rank && d < 3; ++d) view.strides[d] = scale.values.stride(d);
  if (scale.granularity == Granularity::kv_head) {
    view.heads_per_value = heads / static_cast<int>(scale.values.size(1));
  }
  view.block = std::max<std::int64_t>(1, scale.block);
  if (scale.cu_blocks) {
    view.blocks = scale.values.size(1);
    view.cu_blocks = static_cast<const std::int32_t*>(scale.cu_blocks.data);
    view.cu_stride = scale.cu_blocks.stride(0);
  }
  return view;
}

}  // namespace sotto::cuda

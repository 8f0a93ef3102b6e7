// Copies of tensors that the copy engine cannot read where they are.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "sotto/tensor.h"

namespace sotto::sm90 {

// A contiguous copy at `to` of a 16-bit tensor, [batch, len, heads, dim] or [total, heads, dim]
// with dim a multiple of 8.
Tensor copy_rows(const Tensor& from, std::byte* to, cudaStream_t stream);

}  // namespace sotto::sm90

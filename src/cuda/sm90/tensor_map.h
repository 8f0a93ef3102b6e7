// Descriptions of tensors for the bulk tensor copy engine.
#pragma once

#include <cuda.h>

#include "sotto/tensor.h"

namespace sotto::sm90 {

// Q, K or V in the caller's layout, [batch, len, heads, dim] or packed [total, heads, dim], copied
// in boxes of `rows` tokens by `columns` elements of one head. Coordinates: element, token, head,
// batch. Columns beyond dim and tokens beyond len read as 0. The columns are swizzled in shared
// memory by their size in bytes: 32, 64 or 128. `if_empty`: any address, aligned to 16 bytes, of
// the device, for a tensor without elements.
CUtensorMap head_map(const Tensor& tensor, int columns, int rows, void* if_empty);

// V as the 8-bit kernels want it, [slots, dim_v, tokens]; boxes of 128 tokens (or fewer, as
// `tokens` says) by `rows` channels. Coordinates: token, channel, slot.
CUtensorMap transposed_v_map(const Tensor& v, int tokens, int rows, void* if_empty);

// Whether the copy engine can read the rows of a tensor: the base and all strides of dimensions but
// the last are multiples of 16 bytes.
bool has_aligned_rows(const Tensor& tensor);

}  // namespace sotto::sm90

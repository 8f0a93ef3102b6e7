// What the ops attention and sdpa do with a request beyond taking their own arguments.
#pragma once

#include <vector>

#include "arguments.h"

namespace sotto::bridge {

// What attention.out and sdpa.out take after the inputs, and what the others do. Not "out": Dynamo
// takes that keyword for one of torch's own ops, and refuses views.
inline constexpr const char* kOutSchema =
    ", Tensor(a!) dst, Tensor(b!)? lse=None, Tensor(c!)? group_scale=None";
inline constexpr const char* kAllocateSchema = ", ScalarType? out_dtype=None";

// A dense tensor that is [batch, heads, len, dim], as torch's scaled_dot_product_attention has
// them, in the library's order. Packed ones are the same in both.
inline Tensor heads_third(const Tensor& tensor) {
  return tensor.rank == 4 ? tensor.transposed(1, 2) : tensor;
}

// With torchs_layout, dense tensors are [batch, heads, len, dim].
void bind_outputs(Arguments& in, AttentionArgs& args, bool torchs_layout);
// Returns out alone: whoever wants the LSE calls the variant that writes it.
std::vector<TorchTensor> allocate_outputs(Arguments& in, AttentionArgs& args, bool torchs_layout);

}  // namespace sotto::bridge

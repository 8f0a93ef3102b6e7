// What the ops attention and sdpa do with a request beyond taking their own arguments.
#pragma once

#include <vector>

#include "arguments.h"

namespace sotto::bridge {

// What attention.out and sdpa.out take after the inputs, and what the others do.
inline constexpr const char* kOutSchema =
    ", Tensor(a!) out, Tensor(b!)? lse=None, Tensor(c!)? group_scale=None";
inline constexpr const char* kAllocateSchema =
    ", ScalarType? out_dtype=None, bool return_lse=False";

// A dense tensor of an op whose layout is torch's, [batch, heads, len, dim], as the library's.
Tensor heads_third(const Tensor& tensor, bool heads_first);

void bind_outputs(Arguments& in, AttentionArgs& args, bool heads_first);
// Returns out and LSE. Without return_lse the latter is empty, for an op returns what it says.
std::vector<TorchTensor> allocate_outputs(Arguments& in, AttentionArgs& args, bool heads_first);

}  // namespace sotto::bridge

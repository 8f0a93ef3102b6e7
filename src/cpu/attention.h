// Backend `cpu`: what its files offer to each other and to backend.cpp.
#pragma once

#include <memory>

#include "sotto/backend.h"

namespace sotto::cpu {

// rules.cpp
Reasons refuse(const Problem& problem);
Reasons refuse_device(const Device& device);
Reasons refuse_rows(const Device& device, std::int64_t dim);  // what takes tensors row by row

// attention.cpp
std::unique_ptr<const AttentionKernel> plan_attention(const Problem& problem);

// merge.cpp
void merge_states(const MergeArgs& args);

}  // namespace sotto::cpu

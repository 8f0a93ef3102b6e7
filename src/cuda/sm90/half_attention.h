// Attention with 16-bit Q, K and V: which kernel, copies of what it cannot read, the launch.
#pragma once

#include <memory>

#include "cuda/sm90/kernel.h"
#include "sotto/backend.h"

namespace sotto::sm90 {

// All reasons against it.
Reasons refuse_half(const Problem& problem);

std::unique_ptr<const AttentionKernel> plan_half(const AttentionArgs& args, const Problem& problem);

}  // namespace sotto::sm90

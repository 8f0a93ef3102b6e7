// Attention and sdpa() with 8-bit Q and K and e4m3 V: which kernel, what goes before it, the
// launch.
#pragma once

#include <memory>

#include "cuda/sm90/kernel.h"
#include "sotto/backend.h"

namespace sotto::sm90 {

// The kernel for a Problem with 8-bit tensors; null: no kernel is wide enough.
const Kernel<Fp8Config>* find_fp8_kernel(const Problem& problem);

// All reasons against 8-bit attention(), and against sdpa() by a recipe that quantises.
Reasons refuse_fp8(const Problem& problem);
Reasons refuse_fp8_sdpa(const AttentionArgs& args, const SdpaOptions& options,
                        const Problem& problem);

std::unique_ptr<const AttentionKernel> plan_fp8(const AttentionArgs& args, const Problem& problem);
std::unique_ptr<const SdpaKernel> plan_fp8_sdpa(const AttentionArgs& args,
                                                const SdpaOptions& options, const Problem& problem);

}  // namespace sotto::sm90

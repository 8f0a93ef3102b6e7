// What a kernel of the quantiser knows of its request when it is compiled: either nothing, so that
// it takes every request, or all that shapes its inner loops.
#pragma once

#include "cuda/quantize/qkv_params.h"

namespace sotto::cuda {

struct AnyFeatures {
  static constexpr bool kFullRows = false;  // aligned, and as wide as the kernel's
  __device__ static RopeKind rope(const QkvParams& params) { return params.rope.kind; }
  // Channels of a block of Q's and K's Hadamard transform, or 0.
  __device__ static int hadamard(const QkvParams& params) { return params.operands[0].hadamard; }
  __device__ static bool int8(const QkvParams& params) { return params.int8; }
};

template <RopeKind kRope, int kHadamard, bool kInt8>
struct FixedFeatures {
  static constexpr bool kFullRows = true;
  __device__ static constexpr RopeKind rope(const QkvParams&) { return kRope; }
  __device__ static constexpr int hadamard(const QkvParams&) { return kHadamard; }
  __device__ static constexpr bool int8(const QkvParams&) { return kInt8; }
};

}  // namespace sotto::cuda

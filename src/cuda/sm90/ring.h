// The stages of K and V in shared memory, used round and round.
#pragma once

#include "cuda/common/ptx.h"

namespace sotto::sm90 {

// To the next of `kStages` stages; `phase` is the parity that its barriers are waited for with.
template <int kStages>
__device__ __forceinline__ void advance(int& stage, int& phase) {
  if (++stage == kStages) {
    stage = 0;
    phase ^= 1;
  }
}

// Every warp by itself, so that none can be a whole round behind.
__device__ __forceinline__ void release(std::uint32_t barrier, int lane) {
  if (lane == 0) cuda::barrier_arrive(barrier);
}

}  // namespace sotto::sm90

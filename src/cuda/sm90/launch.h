// Launching a kernel of the backend.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "cuda/sm90/params.h"

namespace sotto::sm90 {

// What every kernel of the backend takes.
struct Launch {
  CUtensorMap q, k, v;
  Params params;
};

// One block on each multiprocessor, or fewer. The launch may begin before the kernel before it on
// the stream has ended; kernels wait for that themselves.
void launch(CUfunction kernel, int threads, int shared_bytes, int multiprocessors, Launch& what,
            cudaStream_t stream);

int multiprocessors(int device);

}  // namespace sotto::sm90

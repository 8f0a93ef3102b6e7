// Launches of kernels that a plan makes again and again.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

namespace sotto::cuda {

// The kernel on the current device, with that much dynamic shared memory; once for a plan. Launched
// as such, it costs the calling thread 0.4 us less than by its address, which CUDA's runtime looks
// up every time.
CUfunction function_of(const void* kernel, int shared_bytes);

struct LaunchShape {
  int blocks, threads, shared_bytes;
  // May begin before the kernel before it on the stream has ended, and waits for that by itself.
  bool dependent;
};

// `arguments`: addresses of the kernel's. On the device of function_of(), which must be current.
void launch(CUfunction function, const LaunchShape& shape, void** arguments, cudaStream_t stream);

}  // namespace sotto::cuda

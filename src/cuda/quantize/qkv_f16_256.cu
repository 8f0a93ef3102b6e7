#include "cuda/quantize/qkv_kernels.cuh"

namespace sotto::cuda {

template QkvKernels qkv_kernels<256, __half>();

}  // namespace sotto::cuda

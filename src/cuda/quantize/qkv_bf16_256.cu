#include "cuda/quantize/qkv_kernels.cuh"

namespace sotto::cuda {

template QkvKernels qkv_kernels<256, __nv_bfloat16>();

}  // namespace sotto::cuda

#include "cuda/quantize/qkv_kernels.cuh"

namespace sotto::cuda {

template QkvKernels qkv_kernels<64, __half>();

}  // namespace sotto::cuda

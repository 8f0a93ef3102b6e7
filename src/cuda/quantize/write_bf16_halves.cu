#include "cuda/quantize/qkv_kernels.cuh"

namespace sotto::cuda {

template FixedWriters fixed_writers<__nv_bfloat16, RopeKind::halves>();

}  // namespace sotto::cuda

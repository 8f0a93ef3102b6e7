#include "cuda/quantize/qkv_kernels.cuh"

namespace sotto::cuda {

template FixedWriters fixed_writers<__half, RopeKind::none>();

}  // namespace sotto::cuda

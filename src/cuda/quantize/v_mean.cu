#include <cuda_runtime.h>

#include "cuda/error.h"
#include "cuda/quantize/qkv_kernels.h"
#include "cuda/quantize/sequences.cuh"

namespace sotto::cuda {
namespace {

// One block per (sequence, kv head), one thread per channel.
__global__ void finish_v_mean_kernel(const __grid_constant__ QkvParams params) {
  const OperandParams& v = params.operands[static_cast<int>(Operand::v)];
  const int head = blockIdx.x % v.heads, batch = blockIdx.x / v.heads;
  const int channel = static_cast<int>(threadIdx.x);
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * v.dim + channel;
  const int used = sequence_range(params.keys, batch).used;
  const int slot = first_slot(params.keys, batch);
  float sum = 0.0f;
  for (int tile = 0; tile * kTileTokens < used; ++tile) {
    sum += params.v_code_sums[(static_cast<std::int64_t>(slot + tile) * v.heads + head) * v.dim +
                              channel];
  }
  params.v_mean[at] = used > 0 ? v.mean[at] * v.normalize - sum / static_cast<float>(used) : 0.0f;
}

}  // namespace

void finish_v_mean(const QkvParams& params, cudaStream_t stream) {
  const OperandParams& v = params.operands[static_cast<int>(Operand::v)];
  if (params.keys.batch == 0) return;
  finish_v_mean_kernel<<<params.keys.batch * v.heads, v.dim, 0, stream>>>(params);
  check(cudaGetLastError(), "launching the kernel that finishes V's mean");
}

}  // namespace sotto::cuda

// The kernels of the fused quantiser.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/quantize/qkv_params.h"

namespace sotto::cuda {

// That take every request whose rows are padded to one width.
struct QkvKernels {
  const void* means = nullptr;
  const void* statistics = nullptr;
  std::size_t statistics_bytes = 0;  // of shared memory
  const void* write = nullptr;
  std::size_t write_bytes = 0;  // also of the writing kernels below
};

inline constexpr int kQkvThreads = 512;       // of the last two
inline constexpr int kQkvMeansThreads = 256;  // of the first

// kWidth: 64, 128 or 256. Element: what Q, K and V hold.
template <int kWidth, class Element>
QkvKernels qkv_kernels();

// Writing kernels for aligned heads of 128 channels, by whether Q and K get a Hadamard transform
// and whether they become INT8.
inline constexpr int kFixedWidth = 128;
struct FixedWriters {
  const void* kernels[2][2] = {};
};
template <class Element, RopeKind kRope>
FixedWriters fixed_writers();

// After the codes are written: what is to be added to the output where V's mean was subtracted,
// the mean of V less that of the rounded values.
void finish_v_mean(const QkvParams& params, cudaStream_t stream);

}  // namespace sotto::cuda

// quantize() and channel_mean() on tensors of a GPU.
#pragma once

#include <cuda_runtime.h>

#include "sotto/backend.h"

namespace sotto::cuda {

// All reasons against it.
Reasons refuse(const QuantizeArgs& args);
Reasons refuse(const ChannelMeanArgs& args);

// What was not refused. One kernel, or four where a scale belongs to more than a token.
void run(const QuantizeArgs& args, cudaStream_t stream);
// One kernel.
void run(const ChannelMeanArgs& args, cudaStream_t stream);

}  // namespace sotto::cuda

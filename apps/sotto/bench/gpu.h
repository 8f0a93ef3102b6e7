// A GPU as `sotto bench` uses it. None of this can be called where check_gpu() throws.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "bench/measure.h"
#include "bench/roofs.h"
#include "sotto/tensor.h"

namespace sotto::cli {

struct Gpu {
  std::string name;
  double memory = 0;  // bytes
};

// Throws Error, with what there is instead, where this build or this machine has no such device.
Gpu check_gpu(const Device& device);

// Makes it the current one, for all that follows.
void use_gpu(const Device& device);

void upload(void* to, const void* from, std::size_t bytes);

// As measure(), by the GPU's clock: calls are enqueued on the default stream in bursts, with an
// event after each.
Measurement measure_on_gpu(const std::function<void()>& call, const MeasureOptions& options);

// Copying as measured, matrix products as the chip's clock and width say.
Roofs gpu_roofs(const Device& device);

}  // namespace sotto::cli

// A case made real: tensors of random numbers, and the call that is timed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "bench/case.h"
#include "bench/roofs.h"

namespace sotto::cli {

// What a call has to do at least.
struct Work {
  double flops_qk = 0, flops_pv = 0;  // 0: no attention
  double bytes = 0;                   // inputs read and outputs written, once each
  double flops() const { return flops_qk + flops_pv; }
};

// The least time that a machine with these roofs needs for it.
struct Bound {
  double seconds = 0;
  const char* by = "";  // "matrix" or "memory"
};

struct BenchCall {
  std::function<void()> run;
  std::string backend;
  Work work;
  std::size_t workspace_bytes = 0;
  double quantized_bytes = 0;  // that run() writes: copies of q, k, v and their scales
};

// Throws UsageError where the case's tensors need more than `memory`, in bytes.
void check_memory(const BenchCase& bench, double memory);

double machine_memory();

// The tensors live as long as `run`. Throws Error where the library refuses the request.
BenchCall make_call(const BenchCase& bench, const std::string& backend);

Bound bound_of(const BenchCase& bench, const Work& work, const Roofs& roofs);

}  // namespace sotto::cli

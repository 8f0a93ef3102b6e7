// What this machine can do at best, measured.
#pragma once

namespace sotto::cli {

struct Roofs {
  // Square matrix products by oneDNN, in GFLOP/s (for INT8: 10⁹ operations per second).
  double matrix_f32 = 0, matrix_bf16 = 0, matrix_i8 = 0;
  // Memory beyond the caches, in GB/s; a copy counts what is read and what is written.
  double read = 0, copy = 0;
};

// On as many threads as OpenMP would use now; the best of several tries each. About two seconds.
Roofs measure_roofs();

}  // namespace sotto::cli

// What this machine can do at best.
#pragma once

namespace sotto::cli {

struct Roofs {
  // Square matrix products, in GFLOP/s (for INT8: 10⁹ operations per second); 0: none known.
  double matrix_f32 = 0, matrix_bf16 = 0, matrix_i8 = 0, matrix_f8 = 0;
  bool nominal = false;  // those are not measured but computed from the chip's clock and width
  // Memory beyond the caches, in GB/s; a copy counts what is read and what is written.
  double read = 0, copy = 0;
};

// Of the CPU, matrix products by oneDNN: on as many threads as OpenMP would use now; the best of
// several tries each. About two seconds.
Roofs measure_roofs();

}  // namespace sotto::cli

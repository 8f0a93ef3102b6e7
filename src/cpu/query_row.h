// One query's row as the kernels of attention want it.
#pragma once

#include <cstdint>

#include "core/geometry.h"

namespace sotto::cpu {

struct QueryRow {
  float scale = 0.0f;  // turns q·k · (k's descale) into a score in units of log2
  // What K smoothing took from every score of the row. With a softcap in units of log2, to be added
  // before the cap; without one in natural units, to be added to the LSE: softmax does not see it.
  float bias = 0.0f;
};

// Reads a row of q into out[0 … dim_qk), shrunk by a power of two that `scale` makes up for, so
// that no product with 512 fp32 numbers overflows.
QueryRow load_query_row(const AttentionArgs& args, const Problem& problem,
                        const core::Sequence& sequence, std::int64_t query, std::int64_t head,
                        float* out);

}  // namespace sotto::cpu

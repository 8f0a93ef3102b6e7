// The truth: attention of the inputs as they were before any quantisation, in float64, written
// from the formulas without the library's help. It knows no layouts.
#pragma once

#include <vector>

#include "data.h"

namespace sotto::test {

// O and LSE of one sequence: [len_q, heads_q, dim_v] and [heads_q, len_q].
struct Exact {
  std::vector<double> o, lse;
};

Exact true_attention(const AttentionCase& c, const Data& data, std::size_t sequence);

}  // namespace sotto::test

// Whether a stored number is a value correctly rounded.
#pragma once

#include "sotto/tensor.h"

namespace sotto::test {

// y became `stored` (and, with two terms, `stored_lo`) at a scale: is the error at most half a step
// of the dtype, plus `slack` for what the backend's arithmetic lost before? NaN stays NaN (0 in
// INT8), Inf and what lies beyond the range saturates.
bool is_rounded(double y, float stored, float stored_lo, Dtype dtype, float scale, bool two_terms,
                double slack);

}  // namespace sotto::test

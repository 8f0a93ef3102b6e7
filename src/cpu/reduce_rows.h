// Sums and maxima over rows.
#pragma once

#include "cpu/row_grid.h"

namespace sotto::cpu {

// Finds the ranges of f32, f16 or bf16 rows.
void measure_rows(const RowGrid& rows, const RowCounts& counts, const RowRanges& ranges);

// Adds the finite elements of the rows of each head, in the order of the tokens, to sum[head][dim]
// and their numbers to count[head][dim].
void accumulate_rows(const RowGrid& rows, const RowCounts& counts, const RowRanges& ranges,
                     double* sum, double* count);

// factor · Σ a·b
float dot_row(const float* a, const float* b, std::int64_t dim, float factor);

}  // namespace sotto::cpu

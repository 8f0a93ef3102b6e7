// Rounding rows to the formats of tensors and caches.
#pragma once

#include "cpu/row_grid.h"

namespace sotto::cpu {

// out = in / descale, rounded to out's dtype (f32, f16, bf16, e4m3, i8). `in` is f32, f16 or bf16;
// its ranges are those of the same rows. descale: one for each row, 8-bit outputs only; null: 1.
// lo: e4m3 beside e4m3, takes the rounding error at the same scale; without data: not wanted.
void round_rows(const RowGrid& in, const RowCounts& counts, const RowRanges& ranges,
                const float* descale, const RowGrid& out, const RowGrid& lo = {});

// out = row / descale for one row of floats. descale: 8-bit outputs only.
void round_row(const float* row, std::int64_t dim, float descale, Dtype dtype, std::byte* out);

}  // namespace sotto::cpu

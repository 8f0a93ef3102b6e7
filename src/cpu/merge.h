// Merging rows of partial attention: what merge_states() and the combine of split-KV share.
#pragma once

#include <cstdint>
#include <span>

namespace sotto::cpu {

// One row of one state: o[0 … dim_v), relative to its own denominator, and its LSE.
struct PartialRow {
  double lse = 0.0;  // -Inf: saw no key; o is not looked at
  const float* o = nullptr;
};

// o = Σ_s exp(lse_s − lse) · o_s; returns lse = log Σ_s exp(lse_s), -Inf (and o = 0) where no state
// saw a key.
double merge_rows(std::span<const PartialRow> states, std::int64_t dim_v, float* o);

}  // namespace sotto::cpu

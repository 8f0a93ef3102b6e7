// A row of a dense mask as what is added to scores.
#pragma once

#include <cstdint>

#include "sotto/tensor.h"

namespace sotto::cpu {

struct MaskRow {
  bool hides_all = true;  // no key may be seen
  bool is_zero = true;    // nothing is added
};

// out[j] = entry j of [0, count), `stride` entries apart, in units of log2; -Inf hides a key.
// dtype: boolean (0 hides), f32, f16 or bf16.
MaskRow load_mask_row(Dtype dtype, const std::byte* entries, std::int64_t stride,
                      std::int64_t count, float* out);

}  // namespace sotto::cpu

// The size of the Hadamard transform.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sotto::core {

// Channels of a block of the transform: the largest power of two, at most 256, that divides dim.
inline std::int64_t hadamard_block(std::int64_t dim) {
  return std::min<std::int64_t>(256, dim & -dim);
}

}  // namespace sotto::core

// What a thread's two rows see of a tile of keys, and the reductions over a row.
#pragma once

#include "cuda/common/half2.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

using cuda::Half2;

// A thread holds columns 8j + e, e = 0, 1, of two rows (counted from its own first column); row r
// sees those with begin[r] <= 8j + e < end[r].
struct KeyMask {
  int begin[2], end[2];

  __device__ __forceinline__ bool sees(int row, int column) const {
    return (column >= begin[row]) & (column < end[row]);
  }

  // Puts `hidden` (16 bits, twice) where a key is not seen. pairs[2j + r]: columns 8j, 8j + 1 of
  // row r.
  template <int kCount>
  __device__ __forceinline__ void hide(std::uint32_t* pairs, std::uint32_t hidden) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Half2 from = bound(begin[r]), to = bound(end[r]);
#pragma unroll
      for (int j = 0; j < kCount / 2; ++j) {
        const std::uint32_t seen = pair_seen(8 * j, from, to);
        pairs[2 * j + r] = (pairs[2 * j + r] & seen) | (hidden & ~seen);
      }
    }
  }

 private:
  // Halves are exact for the columns; -1 and 2000 lie beyond any.
  static __device__ __forceinline__ Half2 bound(int column) {
    return cuda::twice(static_cast<float>(min(max(column, -1), 2000)));
  }
  static __device__ __forceinline__ std::uint32_t pair_seen(int column, Half2 from, Half2 to) {
    const __half2 columns =
        __floats2half2_rn(static_cast<float>(column), static_cast<float>(column + 1));
    return __hge2_mask(columns, *reinterpret_cast<const __half2*>(&from)) &
           __hlt2_mask(columns, *reinterpret_cast<const __half2*>(&to));
  }
};

// What the rows `row` and `row` + 8 see of the keys from `key` on, the thread's first column.
__device__ __forceinline__ KeyMask mask_of_rows(const Params& p, const Work& work, int row,
                                                int key) {
  KeyMask seen;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int diagonal = row + 8 * r + mask_offset(p, work);
    seen.begin[r] = first_key(p, diagonal) - key;
    seen.end[r] = end_key(p, work, diagonal) - key;
  }
  return seen;
}

// Over the four threads that hold a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ int row_max(int x) {
  x = max(x, __shfl_xor_sync(~0u, x, 1));
  return max(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ int row_sum(int x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

}  // namespace sotto::sm90

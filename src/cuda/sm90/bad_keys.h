// Keys that had a NaN in V. V has 0 in its place, and a bit for each such key says which rows
// become NaN at the end: nothing is left to do for every tile of keys.
#pragma once

#include "cuda/sm90/key_mask.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

// Where the V of a head of one sequence begins, see cuda/quantize/qkv.h.
struct VPlace {
  int slot, token;
};
__device__ __forceinline__ VPlace v_place(const Params& p, const Work& work) {
  const int head = work.head / (p.heads_q / p.heads_kv);
  if (p.cu_seqlens_k == nullptr) return {work.batch * p.heads_kv + head, 0};
  return {head, (work.token_k / kBlock + work.batch) * kBlock};
}
// The words of its keys.
__device__ __forceinline__ const std::uint32_t* bad_keys_of(const Params& p, const VPlace& v) {
  return p.bad_keys.data + v.slot * p.bad_keys.slot + v.token / 32;
}

// Makes NaN of the factors of the rows `row` and `row` + 8 that see such a key. By the four threads
// of a quad, which share the rows.
__device__ __forceinline__ void spoil_rows(const Params& p, const Work& work, int row, int lane,
                                           float (&factor)[2]) {
  const std::uint32_t* const words = bad_keys_of(p, v_place(p, work));
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int diagonal = row + 8 * r + mask_offset(p, work);
    const int begin = first_key(p, diagonal), end = end_key(p, work, diagonal);
    int sees = 0;
#pragma unroll 1
    for (int w = begin / 32 + (lane & 3); 32 * w < end; w += 4) {
      std::uint32_t bits = __ldg(words + w);
      if (32 * w < begin) bits &= ~0u << begin % 32;
      if (32 * w + 32 > end) bits &= ~(~0u << end % 32);
      sees |= bits != 0;
    }
    // A row that does not count stays 0.
    if (row_max(sees) != 0 && factor[r] != 0) factor[r] = NAN;
  }
}

}  // namespace sotto::sm90

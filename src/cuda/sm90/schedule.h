// Which tile of query rows comes next. Blocks live as long as the kernel and take tiles from one
// counter, which a grid with a block for each tile does without. Heads whose K and V fit
// into L2 together are worked on together; under a mask that gives later rows more keys, long rows
// come first, so that the short ones fill the end.
#pragma once

#include "cuda/sm90/work.h"

namespace sotto::sm90 {

struct Sequence {
  int token, rows, used;
};

// A sequence's place in a packed tensor, or a dense one's length. Lengths come from the device:
// whatever they are, nothing outside of the tensor is named.
__device__ __forceinline__ Sequence sequence_of(int b, int len, const int* cu_seqlens,
                                                const int* seqused) {
  Sequence s{0, len, len};
  if (cu_seqlens != nullptr) {
    s.token = min(max(__ldg(cu_seqlens + b), 0), len);
    s.rows = min(max(__ldg(cu_seqlens + b + 1), s.token), len) - s.token;
  }
  s.used = seqused == nullptr ? s.rows : min(max(__ldg(seqused + b), 0), s.rows);
  return s;
}

// Packed rows: tiles are counted as if sequence b began at tile cu_seqlens[b] / kRows + b, which
// leaves room for its last, partial tile. Called by a whole warp.
template <int kRows>
__device__ __forceinline__ int sequence_at(const Params& p, int tile, int lane) {
  int sequence = 0;
  for (int b = 0; b < p.batch; b += 32) {
    const int candidate = b + lane;
    const bool begins =
        candidate < p.batch && __ldg(p.cu_seqlens_q + candidate) / kRows + candidate <= tile;
    const unsigned found = __ballot_sync(~0u, begins);
    if (found == 0) break;
    sequence = b + 31 - __clz(static_cast<int>(found));
  }
  return sequence;
}

// Tile number `tile` of p.tiles; false where there is none of that number (packed rows only).
// Called by a whole warp.
template <int kRows>
__device__ __forceinline__ bool work_at(const Params& p, int tile, int lane, Work& work) {
  const bool long_rows_first = p.right >= 0;
  const bool packed = p.cu_seqlens_q != nullptr;
  const int heads = packed ? p.heads_q : p.heads_q * p.batch;
  const int group = tile / (p.heads_together * p.row_tiles);
  const int in_group = tile - group * p.heads_together * p.row_tiles;
  const int first = group * p.heads_together;
  const int together = min(p.heads_together, heads - first);
  int index, head;
  if (long_rows_first || packed) {
    index = in_group / together;
    head = first + in_group - index * together;
  } else {
    head = in_group / p.row_tiles;
    index = in_group - head * p.row_tiles;
    head += first;
  }
  work.batch = 0;
  work.head = head;
  if (packed) {
    work.batch = sequence_at<kRows>(p, index, lane);
    index -= __ldg(p.cu_seqlens_q + work.batch) / kRows + work.batch;
  } else {
    work.batch = head / p.heads_q;
    work.head = head - work.batch * p.heads_q;
  }
  const Sequence q = sequence_of(work.batch, p.len_q, p.cu_seqlens_q, p.seqused_q);
  const Sequence k = sequence_of(work.batch, p.len_k, p.cu_seqlens_k, p.seqused_k);
  work.rows = q.rows;
  work.len_q = q.used;
  work.len_k = k.used;
  work.token_q = q.token;
  work.token_k = k.token;
  const int tiles = packed ? (q.rows + kRows - 1) / kRows : p.row_tiles;
  if (index < 0 || index >= tiles) return false;
  work.row = (long_rows_first ? tiles - 1 - index : index) * kRows;
  return true;
}

// The number of a block's next tile after `tile`, -1 at first; p.tiles and more: there is none.
// Called by a whole warp.
__device__ __forceinline__ int next_tile(const Params& p, int tile, int lane) {
  if (p.next_tile == nullptr) {
    return static_cast<int>(tile < 0 ? blockIdx.x : tile + gridDim.x);
  }
  if (lane == 0) tile = static_cast<int>(atomicAdd(p.next_tile, 1u));
  return __shfl_sync(~0u, tile, 0);
}

}  // namespace sotto::sm90

// Which rows a sequence has, and a tile of one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/common/ptx.h"
#include "cuda/quantize/qkv_params.h"

namespace sotto::cuda {

// What each kernel of the quantiser begins with. The first waits for what came before the
// quantiser; when that has ended, the others may read the inputs, too.
__device__ __forceinline__ void begin_kernel(const QkvParams& params) {
  if (params.is_first) wait_for_prior_kernel();
  launch_dependents();
}

struct SequenceRange {
  int begin = 0;  // first row: of the packed tensor, or 0
  int rows = 0;   // in memory
  int used = 0;   // of them
};

// Lengths on the device are clamped to what memory there is.
__device__ inline SequenceRange sequence_range(const TokenSide& side, int batch) {
  SequenceRange range{0, side.len, side.len};
  if (side.cu_seqlens != nullptr) {
    range.begin = min(max(side.cu_seqlens[batch * side.cu_stride], 0), side.len);
    const int end = side.cu_seqlens[(batch + 1) * side.cu_stride];
    range.used = range.rows = min(max(end - range.begin, 0), side.len - range.begin);
  }
  if (side.seqused != nullptr) {
    range.used = min(max(side.seqused[batch * side.seqused_stride], 0), range.rows);
  }
  return range;
}

__device__ inline int first_slot(const TokenSide& side, int batch) {
  if (side.cu_seqlens == nullptr) return batch * side.tiles;
  return min(max(side.cu_seqlens[batch * side.cu_stride], 0), side.len) / kTileTokens + batch;
}

// The tokens of a slot.
struct TokenTile {
  int batch = 0;
  int row = 0;    // the first, in the tensor's dimension of tokens
  int token = 0;  // the same within its sequence
  int rows = 0;   // in memory, at most 128
  int used = 0;   // of them; 0: nothing to do
};

__device__ inline TokenTile tile_of(const TokenSide& side, int batch, int tile) {
  const SequenceRange range = sequence_range(side, batch);
  const int token = tile * kTileTokens;
  return {batch, range.begin + token, token, min(kTileTokens, range.rows - token),
          max(0, min(kTileTokens, range.used - token))};
}

__device__ inline TokenTile tile_of_slot(const TokenSide& side, int slot) {
  if (slot >= side.slots) return {};
  int batch = 0;
  if (side.cu_seqlens == nullptr) {
    batch = slot / side.tiles;
  } else {
    for (int end = side.batch; end - batch > 1;) {  // the last that begins at the slot or before
      const int middle = (batch + end) / 2;
      (first_slot(side, middle) <= slot ? batch : end) = middle;
    }
  }
  const int tile = slot - first_slot(side, batch);
  return tile < 0 ? TokenTile{} : tile_of(side, batch, tile);
}

__device__ inline int position_of(const QkvParams& p, bool query, int batch, int token) {
  const TokenSide& side = query ? p.queries : p.keys;
  int position = token;
  if (side.positions != nullptr) {
    const std::int64_t at =
        side.cu_seqlens == nullptr
            ? batch * side.position_strides[0] + token * side.position_strides[1]
            : (sequence_range(side, batch).begin + token) * side.position_strides[1];
    position = side.positions[at];
  } else if (query && p.bottom_right) {
    position += sequence_range(p.keys, batch).used - sequence_range(p.queries, batch).used;
  }
  return min(max(position, 0), p.rope.positions - 1);
}

}  // namespace sotto::cuda

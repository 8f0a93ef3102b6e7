// The rows and keys that a block works on, and their scales.
#pragma once

#include "cuda/common/ptx.h"
#include "cuda/sm90/params.h"

namespace sotto::sm90 {

// The scales of a tile of keys.
struct KeyScales {
  float k, v;
};

// Everything about one tile of query rows that is the same for the whole block.
struct Work {
  int batch, head;   // query head
  int row;           // first row, within its sequence
  int rows;          // rows of the sequence in q and out
  int len_q, len_k;  // rows and keys that count
  int token_q;       // packed: the sequence's first token in q; else 0
  int token_k;
};

// Keys, or tiles of keys, [begin, end).
struct KeyRange {
  int begin, end;
};

// Tiles of keys of the 64 rows of a warpgroup.
struct OwnTiles {
  KeyRange some;  // that some row sees
  KeyRange all;   // keys (not tiles) that every row sees
};

__device__ __forceinline__ int mask_offset(const Params& p, const Work& work) {
  return p.bottom_right ? work.len_k - work.len_q : 0;
}
// First key that a row sees, and the one after the last; the row counts.
__device__ __forceinline__ int first_key(const Params& p, int row_and_offset) {
  return p.left < 0 ? 0 : max(0, row_and_offset - p.left);
}
__device__ __forceinline__ int end_key(const Params& p, const Work& work, int row_and_offset) {
  return p.right < 0 ? work.len_k : min(work.len_k, row_and_offset + p.right + 1);
}
// Keys that some of the rows [first, last] see.
__device__ __forceinline__ KeyRange keys_of_rows(const Params& p, const Work& work, int first,
                                                 int last) {
  last = min(last, work.len_q - 1);
  if (first > last) return {0, 0};
  const int offset = mask_offset(p, work);
  const KeyRange keys{first_key(p, first + offset), end_key(p, work, last + offset)};
  return keys.begin < keys.end ? keys : KeyRange{0, 0};
}

template <int kKeys>
__device__ __forceinline__ KeyRange tiles_of_rows(const Params& p, const Work& work, int first,
                                                  int last) {
  const KeyRange keys = keys_of_rows(p, work, first, last);
  return {keys.begin / kKeys, (keys.end + kKeys - 1) / kKeys};
}
template <int kKeys>
__device__ __forceinline__ OwnTiles tiles_of_warpgroup(const Params& p, const Work& work,
                                                       int first) {
  const int offset = mask_offset(p, work);
  return {
      tiles_of_rows<kKeys>(p, work, first, first + 63),
      {first_key(p, min(first + 63, work.len_q - 1) + offset), end_key(p, work, first + offset)}};
}

__device__ __forceinline__ std::int64_t row_offset(const RowView& view, const Work& work, int row) {
  return work.batch * view.batch + work.head * view.head +
         static_cast<std::int64_t>(work.token_q + row) * view.token;
}

// What is added to the scores of a row, in units of log 2; 0 for rows that are not there.
__device__ __forceinline__ float bias_of_row(const Params& p, const Work& work, int row) {
  if (p.row_bias.data == nullptr || row >= work.rows) return 0.0f;
  return __ldg(p.row_bias.data + row_offset(p.row_bias, work, row)) * kLog2e;
}

// The scales of one head of one sequence.
struct HeadScales {
  const float* data;
  int first;
};
__device__ __forceinline__ HeadScales scales_of(const ScaleView& view, int batch, int head,
                                                int first_token) {
  int first = 0;
  if (view.first == FirstScale::token) first = first_token;
  if (view.first == FirstScale::cu_blocks) first = __ldg(view.cu_blocks + batch);
  return {view.data + batch * view.batch + (head / view.heads) * view.head, first};
}
__device__ __forceinline__ float scale_at(const ScaleView& view, const HeadScales& scales,
                                          int token) {
  if (view.data == nullptr) return 1.0f;
  const int index = min(max(scales.first + token / view.tokens, 0), view.count - 1);
  return __ldg(scales.data + index * view.step);
}

}  // namespace sotto::sm90

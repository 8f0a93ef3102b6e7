// Where things lie: sequences of a ragged batch, rows of dense, packed and paged tensors, scales.
// For code that runs on the host and reads lengths and page tables there.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sotto/backend.h"

namespace sotto::core {

// How tokens of one sequence map to rows of a tensor.
struct Placement {
  std::int64_t index = 0;  // of the first dimension of a dense tensor
  std::int64_t begin = 0;  // first token in a packed tensor
  bool packed = false;
  const std::int32_t* pages = nullptr;  // this sequence's row of the page table: paged
  std::int64_t page_stride = 1;
  std::int64_t page_size = 1;
};

// Offset, in elements, of (token, head) in a tensor that is [batch, len, heads, …], [total, heads,
// …] or [pages, page_size, heads, …].
inline std::int64_t row_offset(const Tensor& tensor, const Placement& place, std::int64_t token,
                               std::int64_t head) {
  if (place.packed) return (place.begin + token) * tensor.stride(0) + head * tensor.stride(1);
  std::int64_t first = place.index;
  if (place.pages != nullptr) {
    first = place.pages[(token / place.page_size) * place.page_stride];
    token %= place.page_size;
  }
  return first * tensor.stride(0) + token * tensor.stride(1) + head * tensor.stride(2);
}

// Offset of (head, token) in a tensor that is [batch, heads, len] or, packed, [heads, total]: LSE
// and biases.
inline std::int64_t head_major_offset(const Tensor& tensor, const Placement& place,
                                      std::int64_t sequence, std::int64_t head,
                                      std::int64_t token) {
  if (place.packed) return head * tensor.stride(0) + (place.begin + token) * tensor.stride(1);
  return sequence * tensor.stride(0) + head * tensor.stride(1) + token * tensor.stride(2);
}

// A value of an i32 host tensor of rank 1.
inline std::int64_t int_at(const Tensor& tensor, std::int64_t i) {
  return static_cast<const std::int32_t*>(tensor.data)[i * tensor.stride(0)];
}

// One sequence of a batch.
struct Sequence {
  std::int64_t index = 0;
  std::int64_t len_q = 0, len_k = 0;  // that count
  std::int64_t rows_q = 0;            // rows of `out` that are written, ≥ len_q
  std::int64_t first_row = 0;         // of this sequence in the matrix [tokens, heads_q·dim_v]
  std::int64_t offset = 0;            // of the mask's diagonal
  Placement q, kv;
};

Sequence sequence_at(const AttentionArgs& args, const Problem& problem, std::int64_t index);

// Keys that the band of the mask shows to query i: [begin, end), empty where begin >= end.
struct KeyRange {
  std::int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

inline KeyRange visible_keys(const Problem& problem, const Sequence& sequence, std::int64_t i) {
  const std::int64_t diagonal = i + sequence.offset;
  KeyRange range{0, sequence.len_k};
  if (problem.mask_left >= 0) range.begin = std::max<std::int64_t>(0, diagonal - problem.mask_left);
  if (problem.mask_right >= 0) range.end = std::min(range.end, diagonal + problem.mask_right + 1);
  return range;
}

// Whether the block of 128 keys [128·block, …) takes V's second term (VFormat::e4m3_hi_lo) for
// query i: the first block, and those that hold an edge of the band for some query of i's block of
// 128 queries, as a tiled kernel sees them.
bool takes_v_lo(const Problem& problem, const Sequence& sequence, std::int64_t query,
                std::int64_t key_block);

// a / b, rounded up; a >= 0, b > 0. (a + b - 1 could overflow.)
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

// Reads the scales of one sequence.
class ScaleRows {
 public:
  // heads: of the tensor that is scaled. `scale` may be absent (all 1) and must outlive this.
  ScaleRows(const Scale& scale, const Placement& place, std::int64_t sequence, std::int64_t heads);

  float at(std::int64_t head, std::int64_t token) const {
    return data_ == nullptr ? 1.0f : data_[offset(head, token)];
  }
  float* pointer(std::int64_t head, std::int64_t token) const {
    return const_cast<float*>(data_) + offset(head, token);
  }
  // Consecutive tokens [token, returned) share a scale.
  std::int64_t run_end(std::int64_t token, std::int64_t len) const;

 private:
  std::int64_t offset(std::int64_t head, std::int64_t token) const;

  const float* data_;
  const Tensor* values_;
  Placement place_;
  Granularity granularity_;
  std::int64_t block_, sequence_, heads_per_value_;
  std::int64_t first_block_ = 0;
};

}  // namespace sotto::core

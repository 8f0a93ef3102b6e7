#include "core/geometry.h"

namespace sotto::core {

Sequence sequence_at(const AttentionArgs& args, const Problem& problem, std::int64_t index) {
  Sequence s;
  s.index = index;
  s.q.index = index;
  if (problem.packed_q) {
    s.q.packed = true;
    s.q.begin = int_at(args.seq.cu_seqlens_q, index);
    s.rows_q = int_at(args.seq.cu_seqlens_q, index + 1) - s.q.begin;
    s.first_row = s.q.begin;
  } else {
    s.rows_q = problem.len_q;
    s.first_row = index * problem.len_q;
  }
  s.len_q = problem.seqused_q ? int_at(args.seq.seqused_q, index) : s.rows_q;

  s.kv.index = index;
  s.len_k = problem.len_k;
  if (problem.packed_k) {
    s.kv.packed = true;
    s.kv.begin = int_at(args.seq.cu_seqlens_k, index);
    s.len_k = int_at(args.seq.cu_seqlens_k, index + 1) - s.kv.begin;
  } else if (problem.page_size > 0) {
    const Tensor& table = args.cache.page_table;
    s.kv.pages = static_cast<const std::int32_t*>(table.data) + index * table.stride(0);
    s.kv.page_stride = table.stride(1);
    s.kv.page_size = problem.page_size;
  } else if (problem.batch_idx) {
    s.kv.index = int_at(args.cache.batch_idx, index);
  }
  if (problem.seqused_k) s.len_k = int_at(args.seq.seqused_k, index);

  if (problem.mask_align == Mask::Align::bottom_right) s.offset = s.len_k - s.len_q;
  return s;
}

bool takes_v_lo(const Problem& problem, const Sequence& sequence, std::int64_t query,
                std::int64_t key_block) {
  constexpr std::int64_t kBlock = 128;
  if (key_block == 0) return true;
  const std::int64_t first = query / kBlock * kBlock + sequence.offset;
  const std::int64_t last =
      std::min(query / kBlock * kBlock + kBlock, sequence.len_q) - 1 + sequence.offset;
  const std::int64_t begin = key_block * kBlock;
  const auto holds = [&](std::int64_t lowest, std::int64_t highest) {
    return lowest < begin + kBlock && highest >= begin;
  };
  return (problem.mask_right >= 0 &&
          holds(first + problem.mask_right, last + problem.mask_right)) ||
         (problem.mask_left >= 0 && holds(first - problem.mask_left, last - problem.mask_left));
}

ScaleRows::ScaleRows(const Scale& scale, const Placement& place, std::int64_t sequence,
                     std::int64_t heads)
    : data_(scale ? static_cast<const float*>(scale.values.data) : nullptr),
      values_(&scale.values),
      place_(place),
      granularity_(scale ? scale.granularity : Granularity::tensor),
      block_(scale.block),
      sequence_(sequence),
      heads_per_value_(granularity_ == Granularity::kv_head ? heads / scale.values.size(1) : 1) {
  if (granularity_ == Granularity::block && place.packed) {
    first_block_ = int_at(scale.cu_blocks, sequence);
  }
}

std::int64_t ScaleRows::offset(std::int64_t head, std::int64_t token) const {
  const Tensor& v = *values_;
  switch (granularity_) {
    case Granularity::tensor:
      return 0;
    case Granularity::head:
    case Granularity::kv_head:
      return sequence_ * v.stride(0) + head / heads_per_value_ * v.stride(1);
    case Granularity::block:
      if (place_.packed) return head * v.stride(0) + (first_block_ + token / block_) * v.stride(1);
      return sequence_ * v.stride(0) + head * v.stride(1) + token / block_ * v.stride(2);
    case Granularity::token:
      return row_offset(v, place_, token, head);
  }
  return 0;
}

std::int64_t ScaleRows::run_end(std::int64_t token, std::int64_t len) const {
  if (data_ != nullptr && granularity_ == Granularity::token) return token + 1;
  if (data_ != nullptr && granularity_ == Granularity::block) {
    return std::min(len, (token / block_ + 1) * block_);
  }
  return len;
}

}  // namespace sotto::core

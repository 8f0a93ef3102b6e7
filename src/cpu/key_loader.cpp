#include "cpu/key_loader.h"

#include <algorithm>
#include <bit>

#include "cpu/attention_kernels.h"

namespace sotto::cpu {
namespace {

// Sums of up to 2^31 values of this size, weighted by up to 2^8, stay below 2^127.
constexpr std::uint32_t kHugeValue = std::bit_cast<std::uint32_t>(0x1p88f);
constexpr float kShrink = 0x1p-40f;
constexpr std::uint32_t kInfinityBits = 0x7f800000u;

}  // namespace

KeyLoader::KeyLoader(const AttentionArgs& args, const Problem& problem, const Scratch& scratch,
                     const core::Sequence& sequence, std::int64_t kv_head)
    : args_(args),
      problem_(problem),
      scratch_(scratch),
      sequence_(sequence),
      kv_head_(kv_head),
      k_descale_(args.descale.k, sequence.kv, sequence.index, problem.heads_kv),
      v_descale_(args.descale.v, sequence.kv, sequence.index, problem.heads_kv) {}

void KeyLoader::load(std::int64_t first, std::int64_t begin, std::int64_t end) {
  first_ = first;
  begin_ = begin;
  end_ = end;
  values_[0] = values_[1] = {};
  widen(args_.k, problem_.dim_qk, nullptr, false, scratch_.k);
  clear_fringe(problem_.dim_qk, scratch_.k);
  std::fill_n(scratch_.k_scale, kKeyTile, 1.0f);
  fill_scales(k_descale_, 1.0f, scratch_.k_scale);
}

const KeyLoader::Values& KeyLoader::values(bool two_terms) {
  Values& values = values_[two_terms];
  if (values.v != nullptr) return values;
  float* out = two_terms ? scratch_.v_two_terms : scratch_.v;
  fill_scales(v_descale_, shrink_, scratch_.v_scale);
  std::uint32_t largest = widen_values(two_terms, out);
  if (largest > kHugeValue && shrink_ == 1.0f) {
    shrink_ = kShrink;
    fill_scales(v_descale_, shrink_, scratch_.v_scale);
    largest = widen_values(two_terms, out);
    values_[!two_terms] = {};  // is at the old size
  }
  clear_fringe(problem_.dim_v, out);
  values = {out, largest < kInfinityBits};
  return values;
}

std::uint32_t KeyLoader::widen_values(bool two_terms, float* out) const {
  const std::uint32_t largest = widen(args_.v, problem_.dim_v, scratch_.v_scale, false, out);
  if (!two_terms) return largest;
  return widen(args_.v_lo, problem_.dim_v, scratch_.v_scale, true, out);
}

// Page by page, or all in one. Returns the bits of the largest magnitude.
std::uint32_t KeyLoader::widen(const Tensor& tensor, std::int64_t dim, const float* scale,
                               bool accumulate, float* out) const {
  const core::Placement& place = sequence_.kv;
  std::uint32_t largest = 0;
  std::int64_t next;
  for (std::int64_t key = begin_; key < end_; key = next) {
    const std::int64_t token = first_ + key;
    next = end_;
    if (place.pages != nullptr) {
      next = std::min(end_, (token / place.page_size + 1) * place.page_size - first_);
    }
    const SourceRows rows{.dtype = tensor.dtype,
                          .data = tensor.at(core::row_offset(tensor, place, token, kv_head_)),
                          .stride = tensor.stride(place.packed ? 0 : 1) * dtype_size(tensor.dtype),
                          .count = next - key,
                          .scale = scale == nullptr ? nullptr : scale + key};
    largest = std::max(largest, widen_rows(rows, dim, accumulate, out + key * dim));
  }
  return largest;
}

void KeyLoader::clear_fringe(std::int64_t dim, float* rows) const {
  const std::int64_t lowest = begin_ / kKeyStep * kKeyStep;
  const std::int64_t highest = (end_ + kKeyStep - 1) / kKeyStep * kKeyStep;
  std::fill(rows + lowest * dim, rows + begin_ * dim, 0.0f);
  std::fill(rows + end_ * dim, rows + highest * dim, 0.0f);
}

void KeyLoader::fill_scales(const core::ScaleRows& scales, float factor, float* out) const {
  std::int64_t next;
  for (std::int64_t token = first_ + begin_; token < first_ + end_; token = next) {
    next = std::min(scales.run_end(token, sequence_.len_k), first_ + end_);
    std::fill(out + (token - first_), out + (next - first_), scales.at(kv_head_, token) * factor);
  }
}

}  // namespace sotto::cpu

#include "cpu/key_loader.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/pack.h"

namespace sotto::cpu {
namespace {

// Sums of up to 2^31 values of this size, weighted by up to 2^8, stay below 2^127.
constexpr float kHugeValue = 0x1p88f;
constexpr float kShrink = 0x1p-40f;

}  // namespace

KeyLoader::KeyLoader(const AttentionArgs& args, const Problem& problem, const Tiling& tiling,
                     const Scratch& scratch, const core::Sequence& sequence, std::int64_t kv_head)
    : args_(args),
      problem_(problem),
      arithmetic_(tiling.arithmetic),
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
  std::fill_n(scratch_.k_start, kKeyTile, 0);
  load_keys();
  // V is read when the first scores are done.
  for_each_run(args_.v,
               [&](const SourceRows& run, std::int64_t) { prefetch_rows(run, problem_.dim_v); });
  std::fill_n(scratch_.k_scale, kKeyTile, 1.0f);
  fill_scales(k_descale_, {begin_, end_}, scratch_.k_scale);
}

// Page by page, or all in one.
template <class F>
void KeyLoader::for_each_run(const Tensor& tensor, F&& f) const {
  const core::Placement& place = sequence_.kv;
  std::int64_t next;
  for (std::int64_t key = begin_; key < end_; key = next) {
    const std::int64_t token = first_ + key;
    next = end_;
    if (place.pages != nullptr) {
      next = std::min(end_, (token / place.page_size + 1) * place.page_size - first_);
    }
    f(SourceRows{.dtype = tensor.dtype,
                 .data = tensor.at(core::row_offset(tensor, place, token, kv_head_)),
                 .stride = tensor.stride(place.packed ? 0 : 1) * dtype_size(tensor.dtype),
                 .count = next - key},
      key);
  }
}

void KeyLoader::load_keys() {
  const std::int64_t words = problem_.dim_qk / depth(arithmetic_.qk);
  for_each_run(args_.k, [&](const SourceRows& rows, std::int64_t key) {
    std::uint32_t* out = scratch_.k + key * words;
    switch (arithmetic_.qk) {
      case Product::fp32:
        widen_rows(rows, problem_.dim_qk, false, reinterpret_cast<float*>(out));
        return;
      case Product::bf16:
        return convert_rows_to_bf16(rows, problem_.dim_qk, reinterpret_cast<bf16*>(out));
      case Product::int8:
        return copy_int8_rows(rows, problem_.dim_qk, reinterpret_cast<std::int8_t*>(out),
                              scratch_.k_start + key);
    }
  });
  clear_fringe(words, scratch_.k);
}

const KeyLoader::Values& KeyLoader::values(bool two_terms) {
  Values& values = values_[two_terms];
  if (values.words != nullptr) return values;
  fill_scales(v_descale_, {0, std::min(kKeyTile, sequence_.len_k - first_)}, scratch_.v_scale);
  values.words = scratch_.v[two_terms];
  if (arithmetic_.pv == Product::bf16) values.scale = take_common_scale();
  if (!load_plain_values(two_terms, values)) load_any_values(two_terms, values);
  return values;
}

// V that is bf16 but for a scale of the whole tile. Returns false if it is not, or if there are
// values to be careful with.
bool KeyLoader::load_plain_values(bool two_terms, const Values& values) const {
  if (arithmetic_.pv != Product::bf16 || two_terms || shrink_ != 1.0f) return false;
  const auto* scales = scratch_.v_scale;
  if (std::any_of(scales + begin_, scales + end_, [](float x) { return x != 1.0f; })) return false;
  auto* rows = reinterpret_cast<bf16*>(scratch_.v_all[0]);
  for_each_run(args_.v, [&](const SourceRows& run, std::int64_t key) {
    convert_rows_to_bf16(run, problem_.dim_v, rows + key * problem_.dim_v);
  });
  clear_fringe(problem_.dim_v, rows);
  const std::int64_t first = lowest() * problem_.dim_v;
  const float largest = interleave_row_pairs(rows + first, highest() - lowest(), problem_.dim_v,
                                             scratch_.v[0] + first / 2);
  return largest * values.scale <= kHugeValue;
}

void KeyLoader::load_any_values(bool two_terms, Values& values) {
  const bool in_fp32 = arithmetic_.pv == Product::fp32;
  std::uint32_t* words = scratch_.v[two_terms];
  float* all = scratch_.v_all[two_terms];
  float* wide = in_fp32 ? reinterpret_cast<float*>(words) : all;

  float largest = widen_values(two_terms, wide);
  if (!(largest * values.scale <= kHugeValue) && shrink_ == 1.0f) {
    shrink_ = kShrink;
    largest = widen_values(two_terms, wide);
    values_[!two_terms] = {};  // is at the old size
  }
  clear_fringe(problem_.dim_v, wide);
  const std::int64_t first = lowest() * problem_.dim_v, rows = highest() - lowest();
  const bool special = !(largest <= std::numeric_limits<float>::max());
  if (!in_fp32) {
    pack_row_pairs(wide + first, rows, problem_.dim_v, words + first / 2);
  } else if (special) {
    std::copy_n(wide + first, rows * problem_.dim_v, all + first);
    clear_special_values(wide + first, rows * problem_.dim_v);
  }
  values.all = special ? all : nullptr;
}

// out = V · v_scale · shrink(). Returns the largest magnitude, or NaN.
float KeyLoader::widen_values(bool two_terms, float* out) const {
  float scales[kKeyTile];
  for (std::int64_t key = begin_; key < end_; ++key) {
    scales[key] = scratch_.v_scale[key] * shrink_;
  }
  std::uint32_t largest = 0;
  const auto widen = [&](const Tensor& tensor, bool accumulate) {
    for_each_run(tensor, [&](SourceRows rows, std::int64_t key) {
      rows.scale = scales + key;
      largest = std::max(largest,
                         widen_rows(rows, problem_.dim_v, accumulate, out + key * problem_.dim_v));
    });
  };
  widen(args_.v, false);
  if (two_terms) {
    largest = 0;
    widen(args_.v_lo, true);
  }
  return std::bit_cast<float>(largest);
}

// Takes what the scales of the whole tile have in common out of them, and returns it: the scale
// that all of them are, which leaves V the exact bf16 that it is, or else a power of two. What a
// value is rounded to depends neither on which keys of the tile are wanted nor, but for that, on
// the other keys.
float KeyLoader::take_common_scale() const {
  const std::int64_t keys = std::min(kKeyTile, sequence_.len_k - first_);
  float smallest = std::numeric_limits<float>::infinity(), largest = 0.0f;
  for (std::int64_t key = 0; key < keys; ++key) {
    const float scale = scratch_.v_scale[key];
    if (!std::isfinite(scale)) continue;
    smallest = std::min(smallest, scale);
    largest = std::max(largest, scale);
  }
  if (!(largest > 0.0f)) return 1.0f;
  const float common = smallest == largest ? largest : std::ldexp(1.0f, std::ilogb(largest));
  for (std::int64_t key = 0; key < keys; ++key) scratch_.v_scale[key] /= common;
  return common;
}

// Zeros for the rows around [begin, end).
template <class T>
void KeyLoader::clear_fringe(std::int64_t row_size, T* rows) const {
  std::fill(rows + lowest() * row_size, rows + begin_ * row_size, T{});
  std::fill(rows + end_ * row_size, rows + highest() * row_size, T{});
}

void KeyLoader::fill_scales(const core::ScaleRows& scales, core::KeyRange keys, float* out) const {
  std::int64_t next;
  for (std::int64_t token = first_ + keys.begin; token < first_ + keys.end; token = next) {
    next = std::min(scales.run_end(token, sequence_.len_k), first_ + keys.end);
    std::fill(out + (token - first_), out + (next - first_), scales.at(kv_head_, token));
  }
}

}  // namespace sotto::cpu

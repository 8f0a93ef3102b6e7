#include "cpu/query_tile.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "core/element.h"
#include "cpu/pack.h"
#include "cpu/query_row.h"
#include "cpu/round_rows.h"

namespace sotto::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLog2e = std::numbers::log2e_v<float>;

}  // namespace

QueryTile::QueryTile(const AttentionArgs& args, const Problem& problem, const Tiling& tiling,
                     const Scratch& scratch, const core::Sequence& sequence, std::int64_t kv_head,
                     std::int64_t first_query)
    : args_(args),
      problem_(problem),
      tiling_(tiling),
      scratch_(scratch),
      sequence_(sequence),
      kv_head_(kv_head),
      first_query_(first_query),
      queries_(std::clamp<std::int64_t>(sequence.len_q - first_query, 0, tiling.queries)),
      keys_(args, problem, tiling, scratch, sequence, kv_head) {}

std::int64_t QueryTile::last_row(std::int64_t block) const {
  return std::min((block + 1) * tiling_.block, rows()) - 1;
}

void QueryTile::attend(std::int64_t split) {
  if (queries_ == 0) return;
  const std::int64_t blocks = last_row(tiling_.blocks() - 1) / tiling_.block + 1;
  const std::int64_t padded = blocks * tiling_.block;
  std::fill_n(scratch_.q, padded * dim_words(), 0u);
  std::fill_n(scratch_.o, padded * problem_.dim_v, 0.0f);
  std::fill_n(scratch_.max, padded, -kInfinity);
  for (float* per_row : {scratch_.sum, scratch_.exact_sum, scratch_.q_scale, scratch_.row_bias}) {
    std::fill_n(per_row, padded, 0.0f);
  }
  constexpr std::int64_t kAhead = 16;
  for (std::int64_t row = 0; row < std::min(kAhead, rows()); ++row) {
    prefetch_rows(query_row(row), problem_.dim_qk);
  }
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (row + kAhead < rows()) prefetch_rows(query_row(row + kAhead), problem_.dim_qk);
    load_query(row);
  }

  const core::KeyRange all = seen_by(problem_, sequence_, first_query_, first_query_ + queries_);
  const core::KeyRange tiles = tiles_of_share(all, tiling_.splits, split);
  for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const std::int64_t first_key = tile * kKeyTile;
    const core::KeyRange keys{std::max<std::int64_t>(all.begin - first_key, 0),
                              std::min(all.end - first_key, kKeyTile)};
    keys_.load(first_key, keys.begin, keys.end);
    for (std::int64_t block = 0; block < blocks; ++block) attend_block(block, first_key, keys);
  }
}

SourceRows QueryTile::query_row(std::int64_t row) const {
  const std::int64_t offset = core::row_offset(args_.q, sequence_.q, query_of(row), head_of(row));
  return {.dtype = problem_.dtype_q, .data = args_.q.at(offset), .count = 1};
}

void QueryTile::load_query(std::int64_t row) {
  const QueryRow loaded =
      load_query_row(args_, problem_, sequence_, query_of(row), head_of(row), scratch_.row);
  scratch_.q_scale[row] = loaded.scale;
  scratch_.row_bias[row] = loaded.bias;
  pack_query(query_row(row));
  const std::int64_t block = row / tiling_.block;
  std::uint32_t* out = scratch_.q + block * tiling_.block * dim_words() + row % tiling_.block;
  for (std::int64_t w = 0; w < dim_words(); ++w) out[w * tiling_.block] = scratch_.row_words[w];
}

// scratch.row_words = the query in scratch.row, or the bytes it came from.
void QueryTile::pack_query(const SourceRows& source) const {
  switch (tiling_.arithmetic.qk) {
    case Product::fp32:
      std::memcpy(scratch_.row_words, scratch_.row,
                  static_cast<std::size_t>(problem_.dim_qk) * sizeof(float));
      return;
    case Product::bf16:
      return round_row(scratch_.row, problem_.dim_qk, 1.0f, Dtype::bf16,
                       reinterpret_cast<std::byte*>(scratch_.row_words));
    case Product::int8: {
      auto* bytes = reinterpret_cast<std::byte*>(scratch_.row_words);
      for (std::int64_t d = 0; d < problem_.dim_qk; ++d) {
        bytes[d] = source.data[d] ^ std::byte{0x80};  // + 128
      }
      return;
    }
  }
}

void QueryTile::attend_block(std::int64_t block, std::int64_t first_key, core::KeyRange keys) {
  const std::int64_t first_row = block * tiling_.block;
  const std::int64_t first_query = query_of(first_row), last_query = query_of(last_row(block));
  const core::KeyRange first = core::visible_keys(problem_, sequence_, first_query);
  const core::KeyRange last = core::visible_keys(problem_, sequence_, last_query);
  const core::KeyRange some{std::max(first.begin - first_key, keys.begin),
                            std::min(last.end - first_key, keys.end)};
  if (some.empty()) return;

  TileStep step{.arithmetic = tiling_.arithmetic,
                .dim_qk = problem_.dim_qk,
                .dim_v = problem_.dim_v,
                .key_begin = some.begin / kKeyStep * kKeyStep,
                .key_end = (some.end + kKeyStep - 1) / kKeyStep * kKeyStep,
                .p_e4m3 = problem_.p_e4m3,
                .scores = scratch_.scores};
  if (last.begin - first_key > step.key_begin || first.end - first_key < step.key_end) {
    fill_visible(block, first_key);
    step.row_begin = scratch_.row_begin;
    step.row_end = scratch_.row_end;
  }
  if (problem_.softcap > 0.0f) {
    step.cap = core::saturated_float(static_cast<double>(problem_.softcap) * kLog2e);
    if (problem_.k_mean || problem_.row_bias) step.row_bias = scratch_.row_bias + first_row;
  }
  if (problem_.key_bias) {
    fill_key_bias(block, first_key, some);
    step.key_bias = scratch_.key_bias;
  }
  if (problem_.dense_mask) {
    const MaskRow mask = fill_mask(block, first_key, some);
    if (mask.hides_all) return;
    if (!mask.is_zero) step.mask = scratch_.mask;
  }

  const bool two_terms =
      problem_.v_lo && core::takes_v_lo(problem_, sequence_, first_query, first_key / kKeyTile);
  const float shrink_before = keys_.shrink();
  const KeyLoader::Values& values = keys_.values(two_terms);
  if (keys_.shrink() != shrink_before) shrink_output(keys_.shrink() / shrink_before);
  attend_tile(step,
              {.k = scratch_.k,
               .k_start = scratch_.k_start,
               .k_scale = scratch_.k_scale,
               .v = values.words,
               .v_scale = values.scale,
               .v_all = values.all},
              {.rows = tiling_.block,
               .q = scratch_.q + first_row * dim_words(),
               .q_scale = scratch_.q_scale + first_row,
               .o = scratch_.o + first_row * problem_.dim_v,
               .max = scratch_.max + first_row,
               .sum = scratch_.sum + first_row,
               .exact_sum = scratch_.exact_sum + first_row});
}

void QueryTile::shrink_output(float factor) const {
  const std::int64_t count = tiling_.blocks() * tiling_.block * problem_.dim_v;
  for (std::int64_t i = 0; i < count; ++i) scratch_.o[i] *= factor;
}

// Which keys of the tile each row sees. Rows that only fill up the block do as the last one.
void QueryTile::fill_visible(std::int64_t block, std::int64_t first_key) const {
  for (std::int64_t r = 0; r < tiling_.block; ++r) {
    const std::int64_t row = std::min(block * tiling_.block + r, last_row(block));
    const core::KeyRange keys = core::visible_keys(problem_, sequence_, query_of(row));
    const auto in_tile = [&](std::int64_t key) {
      return static_cast<std::int32_t>(std::clamp<std::int64_t>(key - first_key, 0, kKeyTile));
    };
    scratch_.row_begin[r] = in_tile(keys.begin);
    scratch_.row_end[r] = in_tile(keys.end);
  }
}

void QueryTile::fill_key_bias(std::int64_t block, std::int64_t first_key,
                              core::KeyRange keys) const {
  const Tensor& bias = args_.smoothing.key_bias;
  for (std::int64_t r = 0; r < tiling_.block; ++r) {
    const std::int64_t row = std::min(block * tiling_.block + r, last_row(block));
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      const std::int64_t offset =
          core::head_major_offset(bias, sequence_.kv, sequence_.index, head_of(row), first_key + j);
      scratch_.key_bias[j * tiling_.block + r] = core::saturated_float(
          static_cast<double>(static_cast<const float*>(bias.data)[offset]) * kLog2e);
    }
  }
}

// scratch.mask = what the dense mask adds to scores. Returns what holds for all rows.
MaskRow QueryTile::fill_mask(std::int64_t block, std::int64_t first_key,
                             core::KeyRange keys) const {
  const Tensor& mask = args_.mask.dense;
  MaskRow all;
  for (std::int64_t r = 0; r < tiling_.block; ++r) {
    const std::int64_t row = std::min(block * tiling_.block + r, last_row(block));
    const std::byte* entries =
        mask.at((mask.size(0) > 1 ? sequence_.index * mask.stride(0) : 0) +
                (mask.size(1) > 1 ? head_of(row) * mask.stride(1) : 0) +
                query_of(row) * mask.stride(2) + (first_key + keys.begin) * mask.stride(3));
    float line[kKeyTile];
    const MaskRow loaded =
        load_mask_row(mask.dtype, entries, mask.stride(3), keys.end - keys.begin, line);
    all.hides_all &= loaded.hides_all;
    all.is_zero &= loaded.is_zero;
    float* out = scratch_.mask + keys.begin * tiling_.block + r;
    for (std::int64_t j = 0; j < keys.end - keys.begin; ++j) out[j * tiling_.block] = line[j];
  }
  return all;
}

double QueryTile::result(std::int64_t query, std::int64_t head, float* o) const {
  const std::int64_t row = (query - first_query_) * tiling_.group + head - kv_head_ * tiling_.group;
  const double sum = row < rows() ? scratch_.sum[row] : 0.0;
  if (sum == 0.0) {
    std::fill_n(o, problem_.dim_v, 0.0f);
    return -std::numeric_limits<double>::infinity();
  }
  const std::int64_t block = row / tiling_.block;
  const float* in = scratch_.o + block * tiling_.block * problem_.dim_v + row % tiling_.block;
  const float inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t d = 0; d < problem_.dim_v; ++d) o[d] = in[d * tiling_.block] * inverse;
  if (keys_.shrink() != 1.0f) {
    for (std::int64_t d = 0; d < problem_.dim_v; ++d) {
      const float grown = o[d] / keys_.shrink();
      o[d] = std::isfinite(o[d]) ? std::clamp(grown, -kLargest, kLargest) : grown;
    }
  }
  const double bias = problem_.p_e4m3 ? kE4m3Bias : 0;
  const double lse =
      (scratch_.max[row] - bias + std::log2(static_cast<double>(scratch_.exact_sum[row]))) *
      std::numbers::ln2;
  return problem_.softcap > 0.0f ? lse : lse + scratch_.row_bias[row];
}

}  // namespace sotto::cpu

#include "cpu/query_tile.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/element.h"

namespace sotto::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLog2e = std::numbers::log2e_v<float>;

// The nearest float, but finite numbers stay finite; NaN stays NaN.
float in_float(double x) { return static_cast<float>(std::clamp<double>(x, -kLargest, kLargest)); }

// Queries of 16 or 32 bits are shrunk by a power of two until no entry is above 2^-10: a product
// with 512 fp32 numbers then cannot overflow. Returns the exponent for a row's largest magnitude.
int shrinking_exponent(float largest) {
  const float finite = std::isfinite(largest) ? largest : kLargest;
  return finite == 0.0f ? 0 : std::max(0, std::ilogb(finite) + 11);
}

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
      q_descale_(args.descale.q, sequence.q, sequence.index, problem.heads_q),
      keys_(args, problem, scratch, sequence, kv_head) {}

std::int64_t QueryTile::last_row(std::int64_t block) const {
  return std::min((block + 1) * tiling_.block, rows()) - 1;
}

void QueryTile::attend(std::int64_t split) {
  if (queries_ == 0) return;
  const std::int64_t blocks = last_row(tiling_.blocks() - 1) / tiling_.block + 1;
  const std::int64_t padded = blocks * tiling_.block;
  std::fill_n(scratch_.q, padded * problem_.dim_qk, 0.0f);
  std::fill_n(scratch_.o, padded * problem_.dim_v, 0.0f);
  std::fill_n(scratch_.max, padded, -kInfinity);
  for (float* per_row : {scratch_.sum, scratch_.q_scale, scratch_.row_bias}) {
    std::fill_n(per_row, padded, 0.0f);
  }
  for (std::int64_t row = 0; row < rows(); ++row) load_query(row);

  // The band moves with the query: its first row starts first, its last ends last.
  const core::KeyRange all{
      core::visible_keys(problem_, sequence_, first_query_).begin,
      core::visible_keys(problem_, sequence_, first_query_ + queries_ - 1).end};
  if (all.empty()) return;
  const std::int64_t first_tile = all.begin / kKeyTile;
  const std::int64_t tiles = core::ceil_div(all.end, kKeyTile) - first_tile;
  const std::int64_t share = core::ceil_div(tiles, tiling_.splits);
  const std::int64_t last_tile = first_tile + std::min(tiles, (split + 1) * share);
  for (std::int64_t tile = first_tile + split * share; tile < last_tile; ++tile) {
    const std::int64_t first_key = tile * kKeyTile;
    const core::KeyRange keys{std::max<std::int64_t>(all.begin - first_key, 0),
                              std::min(all.end - first_key, kKeyTile)};
    keys_.load(first_key, keys.begin, keys.end);
    for (std::int64_t block = 0; block < blocks; ++block) attend_block(block, first_key, keys);
  }
}

void QueryTile::load_query(std::int64_t row) {
  const std::int64_t query = query_of(row), head = head_of(row);
  const SourceRows source{.dtype = problem_.dtype_q,
                          .data = args_.q.at(core::row_offset(args_.q, sequence_.q, query, head)),
                          .count = 1};
  const float largest =
      std::bit_cast<float>(widen_rows(source, problem_.dim_qk, false, scratch_.row));
  const float descale = q_descale_.at(head, query);
  // Under a cap it belongs to the scores, else to the LSE alone: softmax does not see it.
  const double bias = row_bias(query, head, descale);
  scratch_.row_bias[row] = problem_.softcap > 0.0f ? in_float(bias * kLog2e) : in_float(bias);

  const int exponent = core::is_float(problem_.dtype_q) ? shrinking_exponent(largest) : 0;
  const double scale = std::ldexp(static_cast<double>(descale) * problem_.scale * kLog2e, exponent);
  scratch_.q_scale[row] = in_float(scale);
  const float shrink = std::ldexp(1.0f, -exponent);
  const std::int64_t block = row / tiling_.block;
  float* out = scratch_.q + block * tiling_.block * problem_.dim_qk + row % tiling_.block;
  for (std::int64_t d = 0; d < problem_.dim_qk; ++d) {
    out[d * tiling_.block] = scratch_.row[d] * shrink;
  }
}

// What K smoothing took from every score of a query, whose stored numbers are in scratch.row.
double QueryTile::row_bias(std::int64_t query, std::int64_t head, float descale) const {
  if (problem_.row_bias) {
    const Tensor& bias = args_.smoothing.row_bias;
    return static_cast<const float*>(
        bias.data)[core::head_major_offset(bias, sequence_.q, sequence_.index, head, query)];
  }
  if (!problem_.k_mean) return 0.0;
  const Tensor& mean = args_.smoothing.k_mean;
  const float* k_mean = static_cast<const float*>(mean.data) + sequence_.index * mean.stride(0) +
                        kv_head_ * mean.stride(1);
  double sum = 0.0;
  for (std::int64_t d = 0; d < problem_.dim_qk; ++d) {
    sum += static_cast<double>(scratch_.row[d]) * k_mean[d * mean.stride(2)];
  }
  return sum * descale * problem_.scale;
}

void QueryTile::attend_block(std::int64_t block, std::int64_t first_key, core::KeyRange keys) {
  const std::int64_t first_row = block * tiling_.block;
  const std::int64_t first_query = query_of(first_row), last_query = query_of(last_row(block));
  const core::KeyRange first = core::visible_keys(problem_, sequence_, first_query);
  const core::KeyRange last = core::visible_keys(problem_, sequence_, last_query);
  const core::KeyRange some{std::max(first.begin - first_key, keys.begin),
                            std::min(last.end - first_key, keys.end)};
  if (some.empty()) return;

  TileStep step{.dim_qk = problem_.dim_qk,
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
    step.cap = in_float(static_cast<double>(problem_.softcap) * kLog2e);
    if (problem_.k_mean || problem_.row_bias) step.row_bias = scratch_.row_bias + first_row;
  }
  if (problem_.key_bias) {
    fill_key_bias(block, first_key, some);
    step.key_bias = scratch_.key_bias;
  }
  if (problem_.dense_mask) {
    fill_mask(block, first_key, some);
    step.mask = scratch_.mask;
  }

  const bool two_terms =
      problem_.v_lo && core::takes_v_lo(problem_, sequence_, first_query, first_key / kKeyTile);
  const float shrink_before = keys_.shrink();
  const KeyLoader::Values& values = keys_.values(two_terms);
  if (keys_.shrink() != shrink_before) shrink_output(keys_.shrink() / shrink_before);
  attend_tile(
      step,
      {.k = scratch_.k, .v = values.v, .k_scale = scratch_.k_scale, .v_finite = values.finite},
      {.rows = tiling_.block,
       .q = scratch_.q + first_row * problem_.dim_qk,
       .q_scale = scratch_.q_scale + first_row,
       .o = scratch_.o + first_row * problem_.dim_v,
       .max = scratch_.max + first_row,
       .sum = scratch_.sum + first_row});
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
      scratch_.key_bias[j * tiling_.block + r] =
          in_float(static_cast<double>(static_cast<const float*>(bias.data)[offset]) * kLog2e);
    }
  }
}

// The dense mask as what is added to a score; hidden keys get -Inf.
void QueryTile::fill_mask(std::int64_t block, std::int64_t first_key, core::KeyRange keys) const {
  // Keeps a finite entry, such as the lowest float, from hiding a key and from overflowing a sum.
  static constexpr float kLimit = 0x1p125f;
  const Tensor& mask = args_.mask.dense;
  for (std::int64_t r = 0; r < tiling_.block; ++r) {
    const std::int64_t row = std::min(block * tiling_.block + r, last_row(block));
    const std::byte* entries = mask.at((mask.size(0) > 1 ? sequence_.index * mask.stride(0) : 0) +
                                       (mask.size(1) > 1 ? head_of(row) * mask.stride(1) : 0) +
                                       query_of(row) * mask.stride(2) + first_key * mask.stride(3));
    const auto fill = [&](const auto* entry, auto&& value) {
      for (std::int64_t j = keys.begin; j < keys.end; ++j) {
        scratch_.mask[j * tiling_.block + r] = value(entry[j * mask.stride(3)]);
      }
    };
    if (mask.dtype == Dtype::boolean) {
      fill(reinterpret_cast<const std::uint8_t*>(entries),
           [](std::uint8_t may) { return may != 0 ? 0.0f : -kInfinity; });
    } else {
      core::with_element_type(mask.dtype, [&]<class T>(T) {
        fill(reinterpret_cast<const T*>(entries), [](T entry) {
          const float x = static_cast<float>(entry);
          return x == -kInfinity ? -kInfinity : std::clamp(x, -kLimit, kLimit) * kLog2e;
        });
      });
    }
  }
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
  const double lse = (scratch_.max[row] - bias + std::log2(sum)) * std::numbers::ln2;
  return problem_.softcap > 0.0f ? lse : lse + scratch_.row_bias[row];
}

}  // namespace sotto::cpu

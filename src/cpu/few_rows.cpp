#include "cpu/few_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/aligned_buffer.h"
#include "core/element.h"
#include "cpu/query_row.h"

namespace sotto::cpu {
namespace {

// Query rows of a kv head, at most.
constexpr std::int64_t kFewRows = 16;
// Rows of all kv heads of a piece, at most: their O, Q and scores stay in the nearest caches.
constexpr std::int64_t kRowsOfPiece = 64;

std::int64_t group_of(const Problem& problem) { return problem.heads_q / problem.heads_kv; }

// The most rows of a kv head that a sequence of the batch may have.
std::int64_t most_rows(const Problem& problem) {
  const std::int64_t group = group_of(problem);
  return std::min(problem.len_q, kFewRows / group) * group;
}

std::int64_t most_kv_heads(const Problem& problem) {
  const std::int64_t rows = std::max<std::int64_t>(most_rows(problem), 1);
  return std::clamp<std::int64_t>(kRowsOfPiece / rows, 1, problem.heads_kv);
}

// Where the rows of tokens [token, token + count) are, in a tensor as of row_offset().
void find_rows(const Tensor& tensor, const core::Placement& place, std::int64_t head,
               std::int64_t token, std::int64_t count, const std::byte** rows) {
  const std::int64_t stride = tensor.stride(place.packed ? 0 : 1) * dtype_size(tensor.dtype);
  std::int64_t left = place.pages == nullptr ? count : place.page_size - token % place.page_size;
  while (count > 0) {
    const std::byte* row = tensor.at(core::row_offset(tensor, place, token, head));
    const std::int64_t here = std::min(left, count);
    for (std::int64_t i = 0; i < here; ++i) rows[i] = row + i * stride;
    rows += here;
    token += here;
    count -= here;
    left = place.page_size;
  }
}

// The same for the keys of the tile that starts at `first`: [keys.begin, keys.end) of it, those
// that come next up to `end`, and copies of them all around, as FewRowsTile wants it.
void find_keys(const Tensor& tensor, const core::Placement& place, std::int64_t head,
               std::int64_t first, core::KeyRange keys, std::int64_t end, const std::byte** rows) {
  constexpr std::int64_t kRows = kKeyTile + kMostKeysAhead;
  const std::int64_t found = std::min(end - first, kRows);
  find_rows(tensor, place, head, first + keys.begin, found - keys.begin, rows + keys.begin);
  std::fill(rows, rows + keys.begin, rows[keys.begin]);
  std::fill(rows + found, rows + kRows, rows[found - 1]);
}

// Divides scales by the largest magnitude among them and returns that, so that the rest, mostly 1,
// can be part of P: neither its rounding nor its range suffers.
float take_out_largest(core::KeyRange keys, bool one_scale, float* scale) {
  float largest = 0.0f;
  for (std::int64_t j = keys.begin; j < (one_scale ? keys.begin + 1 : keys.end); ++j) {
    largest = std::max(largest, std::fabs(scale[j]));
  }
  if (largest == 0.0f || !std::isfinite(largest)) return 1.0f;
  if (one_scale) {
    std::fill(scale + keys.begin, scale + keys.end, scale[keys.begin] / largest);
  } else {
    for (std::int64_t j = keys.begin; j < keys.end; ++j) scale[j] /= largest;
  }
  return largest;
}

}  // namespace

bool is_few_rows(const Problem& problem, std::int64_t queries) {
  return queries * group_of(problem) <= kFewRows && !problem.dense_mask && !problem.key_bias &&
         !problem.v_lo;
}

std::int64_t kv_heads_of_piece(const AttentionArgs& args, const Problem& problem,
                               const Tiling& tiling, int workers) {
  constexpr std::int64_t kPiecesPerWorker = 4;
  if (!is_few_rows(problem, problem.len_q)) return 1;  // QueryTile's pieces are of one
  const int token = problem.packed_k ? 0 : 1;
  if (args.k.stride(token + 1) >= args.k.stride(token)) return 1;
  const std::int64_t pieces = problem.batch * problem.heads_kv * tiling.splits;
  return std::clamp<std::int64_t>(pieces / (kPiecesPerWorker * workers), 1, most_kv_heads(problem));
}

FewRowsScratch::FewRowsScratch(const Problem& problem, std::byte* memory) {
  lay_out(problem, memory);
}

std::size_t FewRowsScratch::size(const Problem& problem) {
  return FewRowsScratch().lay_out(problem, nullptr);
}

std::size_t FewRowsScratch::lay_out(const Problem& problem, std::byte* memory) {
  if (!is_few_rows(problem, std::min<std::int64_t>(problem.len_q, 1))) return 0;
  std::size_t used = 0;
  const auto take = [&]<class T>(T*& pointer, std::int64_t count) {
    pointer = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + used);
    used += core::aligned_size(static_cast<std::size_t>(count) * sizeof(T));
  };
  const FewRowsFormat format = few_rows_format(problem);
  const std::int64_t heads = most_kv_heads(problem), rows = heads * most_rows(problem);
  take(q, rows * format.q_row);
  take(o, rows * format.o_row);
  take(o_tile, rows * format.o_row);
  take(scores, rows * kKeyTile);
  for (float** per_row : {&q_scale, &row_bias, &max, &rescale}) take(*per_row, rows);
  take(sum, rows);
  take(exact_sum, rows);
  take(row, std::max(problem.dim_qk, problem.dim_v));
  for (const std::byte*** pointers : {&k, &v, &scale_rows})
    take(*pointers, kKeyTile + kMostKeysAhead);
  take(k_scale, heads * kKeyTile);
  take(v_scale, heads * kKeyTile);
  take(v_scale_all, heads);
  take(seen, most_rows(problem));
  return used;
}

FewRows::FewRows(const AttentionArgs& args, const Problem& problem, const Tiling& tiling,
                 const FewRowsScratch& scratch, const Scratch& careful,
                 const core::Sequence& sequence, KvHeads heads)
    : args_(args),
      problem_(problem),
      tiling_(tiling),
      scratch_(scratch),
      careful_scratch_(careful),
      sequence_(sequence),
      heads_(heads),
      format_(few_rows_format(problem)),
      block_{.kv_heads = heads.end - heads.begin,
             .rows = rows(),
             .q = scratch.q,
             .q_scale = scratch.q_scale,
             .o = scratch.o,
             .o_tile = scratch.o_tile,
             .max = scratch.max,
             .sum = scratch.sum,
             .exact_sum = scratch.exact_sum,
             .rescale = scratch.rescale,
             .scores = scratch.scores} {
  if (problem.softcap > 0.0f) {
    block_.cap = core::saturated_float(problem.softcap * std::numbers::log2e);
    if (problem.k_mean || problem.row_bias) block_.row_bias = scratch.row_bias;
  }
}

void FewRows::attend(std::int64_t split) {
  split_ = split;
  if (sequence_.len_q == 0) return;
  load_queries();
  const core::KeyRange all = seen_by(problem_, sequence_, 0, sequence_.len_q);
  const core::KeyRange tiles = tiles_of_share(all, tiling_.splits, split);
  const std::int64_t end = std::min(tiles.end * kKeyTile, all.end);
  for (std::int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const std::int64_t first = tile * kKeyTile;
    const core::KeyRange keys{std::max<std::int64_t>(all.begin - first, 0),
                              std::min(end - first, kKeyTile)};
    attend_tile(first, keys, end);
  }
}

void FewRows::load_queries() {
  std::int64_t row = 0;
  for (std::int64_t kv_head = heads_.begin; kv_head < heads_.end; ++kv_head) {
    for (std::int64_t query = 0; query < sequence_.len_q; ++query) {
      for (std::int64_t h = 0; h < tiling_.group; ++h, ++row) {
        const QueryRow loaded = load_query_row(args_, problem_, sequence_, query,
                                               kv_head * tiling_.group + h, scratch_.row);
        pack_query(problem_, scratch_.row, scratch_.q + row * format_.q_row);
        scratch_.q_scale[row] = loaded.scale;
        scratch_.row_bias[row] = loaded.bias;
      }
    }
  }
  std::fill_n(scratch_.o, row * format_.o_row, 0.0f);
  std::fill_n(scratch_.o_tile, row * format_.o_row, 0.0f);
  std::fill_n(scratch_.max, row, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch_.sum, row, 0.0);
  std::fill_n(scratch_.exact_sum, row, 0.0);
}

// The tile that starts at key `first`, of which the keys [keys.begin, keys.end) are seen; `end`: of
// the share.
void FewRows::attend_tile(std::int64_t first, core::KeyRange keys, std::int64_t end) const {
  const core::Placement& place = sequence_.kv;
  find_keys(args_.k, place, heads_.begin, first, keys, end, scratch_.k);
  find_keys(args_.v, place, heads_.begin, first, keys, end, scratch_.v);
  fill_scales(args_.descale.k, first, keys, scratch_.k_scale);
  // A weight is P times a scale, also next to the keys that are seen: 0 there, not what was left.
  std::fill_n(scratch_.v_scale, block_.kv_heads * kKeyTile, 0.0f);
  const bool one_v_scale = fill_scales(args_.descale.v, first, keys, scratch_.v_scale);
  for (std::int64_t head = 0; head < block_.kv_heads; ++head) {
    scratch_.v_scale_all[head] =
        take_out_largest(keys, one_v_scale, scratch_.v_scale + head * kKeyTile);
  }
  for (std::int64_t row = 0; row < rows(); ++row) {
    const core::KeyRange seen = core::visible_keys(problem_, sequence_, row / tiling_.group);
    const auto in_tile = [&](std::int64_t key) {
      return static_cast<std::int32_t>(std::clamp(key - first, keys.begin, keys.end));
    };
    scratch_.seen[row] = {in_tile(seen.begin), in_tile(seen.end)};
  }
  const auto head_stride = [&](const Tensor& tensor) {
    return tensor.stride(place.packed ? 1 : 2) * dtype_size(tensor.dtype);
  };
  attend_few_rows(problem_,
                  {.k = scratch_.k,
                   .v = scratch_.v,
                   .k_head_stride = head_stride(args_.k),
                   .v_head_stride = head_stride(args_.v),
                   .k_scale = scratch_.k_scale,
                   .v_scale = scratch_.v_scale,
                   .v_scale_all = scratch_.v_scale_all,
                   .seen = scratch_.seen,
                   .begin = keys.begin,
                   .end = keys.end},
                  block_);
}

// out[kv head][key of the tile]. Returns whether each kv head has one scale for all keys.
bool FewRows::fill_scales(const Scale& scale, std::int64_t first, core::KeyRange keys,
                          float* out) const {
  const core::ScaleRows scales(scale, sequence_.kv, sequence_.index, problem_.heads_kv);
  const std::int64_t begin = first + keys.begin, end = first + keys.end;
  const bool per_token = scale && scale.granularity == Granularity::token;
  if (per_token) {
    find_rows(scale.values, sequence_.kv, 0, begin, end - begin, scratch_.scale_rows + keys.begin);
  }
  const bool one_scale = !per_token && scales.run_end(begin, sequence_.len_k) >= end;
  for (std::int64_t head = heads_.begin; head < heads_.end; ++head, out += kKeyTile) {
    if (per_token) {
      const std::int64_t offset = head * scale.values.stride(scale.values.rank - 1);
      for (std::int64_t j = keys.begin; j < keys.end; ++j) {
        out[j] = reinterpret_cast<const float*>(scratch_.scale_rows[j])[offset];
      }
      continue;
    }
    std::int64_t next;
    for (std::int64_t token = begin; token < end; token = next) {
      next = std::min(scales.run_end(token, sequence_.len_k), end);
      std::fill(out + (token - first), out + (next - first), scales.at(head, token));
    }
  }
  return one_scale;
}

double FewRows::result(std::int64_t query, std::int64_t head, float* o) {
  const double lse = quick_result(query, head, o);
  const bool fine = lse == -std::numeric_limits<double>::infinity() ||
                    (std::isfinite(lse) &&
                     std::all_of(o, o + problem_.dim_v, [](float x) { return std::isfinite(x); }));
  if (fine) return lse;
  // A NaN or Inf that was seen, or sums beyond fp32.
  const std::int64_t kv_head = head / tiling_.group;
  if (careful_head_ != kv_head) {
    careful_.emplace(args_, problem_, tiling_, careful_scratch_, sequence_, kv_head, 0);
    careful_->attend(split_);
    careful_head_ = kv_head;
  }
  return careful_->result(query, head, o);
}

double FewRows::quick_result(std::int64_t query, std::int64_t head, float* o) const {
  const std::int64_t kv_head = head / tiling_.group - heads_.begin;
  const std::int64_t row = kv_head * rows() + query * tiling_.group + head % tiling_.group;
  const double sum = query < sequence_.len_q ? scratch_.sum[row] : 0.0;
  if (sum == 0.0) {
    std::fill_n(o, problem_.dim_v, 0.0f);
    return -std::numeric_limits<double>::infinity();
  }
  unpack_output(problem_, scratch_.o + row * format_.o_row, o);
  const float inverse = static_cast<float>(1.0 / sum);
  for (std::int64_t d = 0; d < problem_.dim_v; ++d) o[d] *= inverse;
  const double bias = problem_.p_e4m3 ? kE4m3Bias : 0;
  const double lse =
      (scratch_.max[row] - bias + std::log2(scratch_.exact_sum[row])) * std::numbers::ln2;
  return problem_.softcap > 0.0f ? lse : lse + scratch_.row_bias[row];
}

}  // namespace sotto::cpu

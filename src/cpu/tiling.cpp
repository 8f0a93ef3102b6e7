#include "cpu/tiling.h"

#include <algorithm>
#include <bit>

#include "core/aligned_buffer.h"
#include "core/geometry.h"
#include "cpu/attention_kernels.h"
#include "cpu/dot_product.h"

namespace sotto::cpu {
namespace {

std::int64_t floor_power_of_two(std::int64_t x) {
  return static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(x)));
}

// Rows of a piece for which its share of Q and O stays within a core's second-level cache beside a
// tile of K and V; many, so that each tile is widened once for many rows.
std::int64_t rows_for_cache(const Problem& problem) {
  constexpr std::int64_t kFloats = 96 * 1024;
  return std::clamp<std::int64_t>(kFloats / (problem.dim_qk + problem.dim_v), 64, 384);
}

// Shares of the keys for few queries and many keys. Depends on nothing but the problem, because
// the number of shares changes the last bits of the result.
std::int64_t choose_splits(const Problem& problem, std::int64_t rows, std::int64_t pieces) {
  constexpr std::int64_t kPieces = 128;       // enough for the cores of any machine
  constexpr std::int64_t kKeys = 1024;        // at least, per share
  constexpr std::int64_t kRowsOfDecode = 64;  // more rows: the queries are cut instead
  if (problem.num_splits > 0) {
    return std::min<std::int64_t>(
        problem.num_splits, std::max<std::int64_t>(core::ceil_div(problem.len_k, kKeyTile), 1));
  }
  if (rows > kRowsOfDecode || pieces == 0) return 1;
  const std::int64_t wanted = core::ceil_div(kPieces, pieces);
  return std::clamp<std::int64_t>(problem.len_k / kKeys, 1, std::max<std::int64_t>(wanted, 1));
}

// Whether all numbers of a format are bf16 numbers.
bool fits_bf16(Dtype dtype) {
  return dtype == Dtype::bf16 || dtype == Dtype::e4m3 || dtype == Dtype::i8;
}

// The fastest arithmetic on this CPU that is exact for the problem's formats, P apart: with bf16, a
// P that is not e4m3 is rounded to bf16.
Arithmetic choose_arithmetic(const Problem& problem) {
  const bool bf16 = has_bf16_products() && fits_bf16(problem.dtype_q) &&
                    fits_bf16(problem.dtype_k) && fits_bf16(problem.dtype_v);
  Arithmetic arithmetic;
  if (bf16) arithmetic = {Product::bf16, Product::bf16};
  if (problem.dtype_q == Dtype::i8 && problem.dtype_k == Dtype::i8 && has_int8_products()) {
    arithmetic.qk = Product::int8;
  }
  return arithmetic;
}

// The workspace holds a row for each share of each row of the output.
void check_partials(const Problem& problem, std::int64_t splits) {
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  const std::int64_t rows = std::max<std::int64_t>(problem.rows_q * problem.heads_q, 1);
  const std::int64_t row_bytes = problem.dim_v * std::int64_t{sizeof(float)} + 64;
  if (splits > kMost / row_bytes / rows) {
    core::fail("num_splits", "{} shares of {} rows need a workspace beyond 64 bits", splits, rows);
  }
}

}  // namespace

Tiling make_tiling(const Problem& problem, int workers) {
  Tiling tiling;
  tiling.arithmetic = choose_arithmetic(problem);
  tiling.group = problem.heads_q / problem.heads_kv;
  const std::int64_t len_q = std::max<std::int64_t>(problem.len_q, 1);
  const std::int64_t all =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(len_q)));
  const std::int64_t fitting =
      floor_power_of_two(std::max<std::int64_t>(rows_for_cache(problem) / tiling.group, 1));
  tiling.queries = std::min(all, fitting);

  const auto pieces = [&] {
    return problem.batch * problem.heads_kv * core::ceil_div(len_q, tiling.queries);
  };
  tiling.splits = choose_splits(problem, len_q * tiling.group, pieces());
  if (tiling.splits > 1) {
    check_partials(problem, tiling.splits);
  } else {
    // Smaller pieces where there are too few for all cores. A row's result does not depend on it.
    constexpr std::int64_t kPiecesPerWorker = 4;
    constexpr std::int64_t kFewestRows = 64;
    while (pieces() < kPiecesPerWorker * workers && tiling.queries > 1 &&
           tiling.queries * tiling.group > kFewestRows) {
      tiling.queries /= 2;
    }
  }
  tiling.block = row_block(tiling.queries * tiling.group);
  return tiling;
}

core::KeyRange seen_by(const Problem& problem, const core::Sequence& sequence, std::int64_t first,
                       std::int64_t end) {
  return {core::visible_keys(problem, sequence, first).begin,
          core::visible_keys(problem, sequence, end - 1).end};
}

core::KeyRange tiles_of_share(core::KeyRange keys, std::int64_t splits, std::int64_t split) {
  if (keys.empty()) return {};
  const std::int64_t first = keys.begin / kKeyTile;
  const std::int64_t tiles = core::ceil_div(keys.end, kKeyTile) - first;
  const std::int64_t share = core::ceil_div(tiles, splits);
  return {first + std::min(tiles, split * share), first + std::min(tiles, (split + 1) * share)};
}

Scratch::Scratch(const Problem& problem, const Tiling& tiling, std::byte* memory) {
  lay_out(problem, tiling, memory);
}

std::size_t Scratch::size(const Problem& problem, const Tiling& tiling) {
  return Scratch().lay_out(problem, tiling, nullptr);
}

std::size_t Scratch::lay_out(const Problem& problem, const Tiling& tiling, std::byte* memory) {
  std::size_t used = 0;
  const auto take = [&]<class T>(T*& pointer, std::int64_t count) {
    pointer = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + used);
    used += core::aligned_size(static_cast<std::size_t>(count) * sizeof(T));
  };
  const std::int64_t rows = tiling.blocks() * tiling.block;
  const std::int64_t dim_words = problem.dim_qk / depth(tiling.arithmetic.qk);
  take(q, rows * dim_words);
  take(o, rows * problem.dim_v);
  for (float** per_row : {&max, &sum, &exact_sum, &q_scale, &row_bias}) take(*per_row, rows);
  take(row, std::max(problem.dim_qk, problem.dim_v));
  take(row_words, dim_words);
  take(k, kKeyTile * dim_words);
  take(k_scale, kKeyTile);
  take(k_start, kKeyTile);
  take(v_scale, kKeyTile);
  const std::int64_t values = kKeyTile * problem.dim_v;
  for (int terms = 0; terms < 2; ++terms) {
    const bool wanted = terms == 0 || problem.v_lo;
    take(v[terms], wanted ? values / depth(tiling.arithmetic.pv) : 0);
    take(v_all[terms], wanted ? values : 0);
  }
  take(scores, kKeyTile * tiling.block);
  take(key_bias, problem.key_bias ? kKeyTile * tiling.block : 0);
  take(mask, problem.dense_mask ? kKeyTile * tiling.block : 0);
  take(row_begin, tiling.block);
  take(row_end, tiling.block);
  return used;
}

}  // namespace sotto::cpu

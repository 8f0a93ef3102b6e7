#include "cpu/tiling.h"

#include <algorithm>
#include <bit>

#include "core/aligned_buffer.h"
#include "core/geometry.h"
#include "cpu/attention_kernels.h"

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

}  // namespace

Tiling make_tiling(const Problem& problem, int workers) {
  Tiling tiling;
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
  if (tiling.splits == 1) {
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
  take(q, rows * problem.dim_qk);
  take(o, rows * problem.dim_v);
  for (float** per_row : {&max, &sum, &q_scale, &row_bias}) take(*per_row, rows);
  take(row, std::max(problem.dim_qk, problem.dim_v));
  take(k, kKeyTile * problem.dim_qk);
  take(v, kKeyTile * problem.dim_v);
  take(v_two_terms, problem.v_lo ? kKeyTile * problem.dim_v : 0);
  take(k_scale, kKeyTile);
  take(v_scale, kKeyTile);
  take(scores, kKeyTile * tiling.block);
  take(key_bias, problem.key_bias ? kKeyTile * tiling.block : 0);
  take(mask, problem.dense_mask ? kKeyTile * tiling.block : 0);
  take(row_begin, tiling.block);
  take(row_end, tiling.block);
  return used;
}

}  // namespace sotto::cpu

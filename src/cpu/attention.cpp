// Flash attention on all cores: the plan, and the loops over pieces of work.
#include "cpu/attention.h"

#include <algorithm>

#include "core/aligned_buffer.h"
#include "core/parallel.h"
#include "cpu/few_rows.h"
#include "cpu/merge.h"
#include "cpu/query_tile.h"
#include "cpu/row_finisher.h"
#include "cpu/tiling.h"

namespace sotto::cpu {
namespace {

// Results over shares of the keys, for the combine: [rows_q][heads_q][splits].
struct Partials {
  double* lse = nullptr;
  float* o = nullptr;            // … [dim_v]
  PartialRow* of_row = nullptr;  // [workers][splits]: those of the row that a worker combines
};

class CpuAttention final : public AttentionKernel {
 public:
  explicit CpuAttention(const Problem& problem)
      : problem_(problem),
        workers_(core::max_workers()),
        tiling_(make_tiling(problem, workers_)),
        tile_scratch_size_(Scratch::size(problem, tiling_)),
        scratch_size_(tile_scratch_size_ + FewRowsScratch::size(problem)) {}

  std::size_t workspace_size() const override {
    std::size_t size = static_cast<std::size_t>(workers_) * scratch_size_;
    if (tiling_.splits > 1) {
      size += core::aligned_size(partial_rows() * sizeof(double)) +
              core::aligned_size(partial_rows() * static_cast<std::size_t>(problem_.dim_v) *
                                 sizeof(float)) +
              static_cast<std::size_t>(workers_ * tiling_.splits) * sizeof(PartialRow);
    }
    return size;
  }

  void run(const AttentionArgs& args, Workspace workspace, Stream) const override {
    const RowFinisher finisher(args, problem_);
    const Partials partials = partials_in(workspace);
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < problem_.batch; ++b) {
      longest = std::max(longest, core::sequence_at(args, problem_, b).rows_q);
    }
    const std::int64_t tiles = core::ceil_div(longest, tiling_.queries);
    const std::int64_t heads = kv_heads_of_piece(args, problem_, tiling_, workers_);
    const std::int64_t pieces = tiles * problem_.batch * core::ceil_div(problem_.heads_kv, heads);
    const auto memory_of = [&](int worker) {
      return workspace.data() + static_cast<std::size_t>(worker) * scratch_size_;
    };

    core::parallel_for(pieces * tiling_.splits, workers_, [&](std::int64_t index, int worker) {
      const Piece piece = piece_at(args, heads, pieces - 1 - index / tiling_.splits);
      attend(args, piece, index % tiling_.splits, memory_of(worker), partials, finisher);
    });
    if (tiling_.splits == 1) return;
    core::parallel_for(pieces, workers_, [&](std::int64_t index, int worker) {
      const Scratch scratch(problem_, tiling_, memory_of(worker));
      combine(piece_at(args, heads, index), scratch, partials,
              partials.of_row + worker * tiling_.splits, finisher);
    });
  }

 private:
  struct Piece {
    core::Sequence sequence;
    KvHeads heads;
    std::int64_t first_query = 0, end_query = 0;  // of the output's rows; may be empty
  };

  // Later queries have higher numbers: under a causal mask they are more work, and go first.
  Piece piece_at(const AttentionArgs& args, std::int64_t heads, std::int64_t index) const {
    const std::int64_t head_blocks = core::ceil_div(problem_.heads_kv, heads);
    Piece piece;
    piece.heads.begin = index % head_blocks * heads;
    piece.heads.end = std::min(piece.heads.begin + heads, problem_.heads_kv);
    index /= head_blocks;
    piece.sequence = core::sequence_at(args, problem_, index % problem_.batch);
    piece.first_query = index / problem_.batch * tiling_.queries;
    piece.end_query = std::min(piece.first_query + tiling_.queries, piece.sequence.rows_q);
    return piece;
  }

  void attend(const AttentionArgs& args, const Piece& piece, std::int64_t split, std::byte* memory,
              const Partials& partials, const RowFinisher& finisher) const {
    if (piece.first_query >= piece.end_query) return;
    const Scratch scratch(problem_, tiling_, memory);
    const auto attend_and_finish = [&](auto&& rows) {
      rows.attend(split);
      for_each_row(piece, [&](std::int64_t query, std::int64_t head) {
        if (tiling_.splits == 1) {
          const double lse = rows.result(query, head, scratch.row);
          finisher.finish(piece.sequence, query, head, lse, scratch.row);
        } else {
          const std::int64_t at = partial(piece, query, head, split);
          partials.lse[at] = rows.result(query, head, partials.o + at * problem_.dim_v);
        }
      });
    };
    if (is_few_rows(problem_, piece.sequence.rows_q)) {
      const FewRowsScratch few(problem_, memory + tile_scratch_size_);
      attend_and_finish(
          FewRows(args, problem_, tiling_, few, scratch, piece.sequence, piece.heads));
    } else {
      attend_and_finish(QueryTile(args, problem_, tiling_, scratch, piece.sequence,
                                  piece.heads.begin, piece.first_query));
    }
  }

  void combine(const Piece& piece, const Scratch& scratch, const Partials& partials,
               PartialRow* shares, const RowFinisher& finisher) const {
    for_each_row(piece, [&](std::int64_t query, std::int64_t head) {
      const std::int64_t first = partial(piece, query, head, 0);
      for (std::int64_t s = 0; s < tiling_.splits; ++s) {
        shares[s] = {partials.lse[first + s], partials.o + (first + s) * problem_.dim_v};
      }
      const std::span<const PartialRow> all(shares, static_cast<std::size_t>(tiling_.splits));
      const double lse = merge_rows(all, problem_.dim_v, scratch.row);
      finisher.finish(piece.sequence, query, head, lse, scratch.row);
    });
  }

  template <class F>
  void for_each_row(const Piece& piece, F&& f) const {
    for (std::int64_t kv_head = piece.heads.begin; kv_head < piece.heads.end; ++kv_head) {
      for (std::int64_t query = piece.first_query; query < piece.end_query; ++query) {
        for (std::int64_t h = 0; h < tiling_.group; ++h) f(query, kv_head * tiling_.group + h);
      }
    }
  }

  std::size_t partial_rows() const {
    return static_cast<std::size_t>(problem_.rows_q * problem_.heads_q * tiling_.splits);
  }
  std::int64_t partial(const Piece& piece, std::int64_t query, std::int64_t head,
                       std::int64_t split) const {
    const std::int64_t row = piece.sequence.first_row + query;
    return (row * problem_.heads_q + head) * tiling_.splits + split;
  }
  Partials partials_in(Workspace workspace) const {
    if (tiling_.splits == 1) return {};
    std::byte* lse = workspace.data() + static_cast<std::size_t>(workers_) * scratch_size_;
    std::byte* o = lse + core::aligned_size(partial_rows() * sizeof(double));
    std::byte* of_row =
        o + core::aligned_size(partial_rows() * static_cast<std::size_t>(problem_.dim_v) *
                               sizeof(float));
    return {reinterpret_cast<double*>(lse), reinterpret_cast<float*>(o),
            reinterpret_cast<PartialRow*>(of_row)};
  }

  Problem problem_;
  int workers_;
  Tiling tiling_;
  std::size_t tile_scratch_size_, scratch_size_;  // of a worker: for QueryTile, for all
};

}  // namespace

std::unique_ptr<const AttentionKernel> plan_attention(const Problem& problem) {
  return std::make_unique<CpuAttention>(problem);
}

}  // namespace sotto::cpu

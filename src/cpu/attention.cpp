// Flash attention on all cores: the plan, and the loops over pieces of work.
#include "cpu/attention.h"

#include <algorithm>
#include <vector>

#include "core/aligned_buffer.h"
#include "core/parallel.h"
#include "cpu/merge.h"
#include "cpu/query_tile.h"
#include "cpu/row_finisher.h"
#include "cpu/tiling.h"

namespace sotto::cpu {
namespace {

// Results over shares of the keys, for the combine: [rows_q][heads_q][splits].
struct Partials {
  double* lse = nullptr;
  float* o = nullptr;  // … [dim_v]
};

class CpuAttention final : public AttentionKernel {
 public:
  explicit CpuAttention(const Problem& problem)
      : problem_(problem),
        workers_(core::max_workers()),
        tiling_(make_tiling(problem, workers_)),
        scratch_size_(Scratch::size(problem, tiling_)) {}

  std::size_t workspace_size() const override {
    const std::size_t partials =
        tiling_.splits > 1
            ? core::aligned_size(partial_rows() * sizeof(double)) +
                  partial_rows() * static_cast<std::size_t>(problem_.dim_v) * sizeof(float)
            : 0;
    return static_cast<std::size_t>(workers_) * scratch_size_ + partials;
  }

  void run(const AttentionArgs& args, Workspace workspace, Stream) const override {
    const RowFinisher finisher(args, problem_);
    const Partials partials = partials_in(workspace);
    std::int64_t longest = 0;
    for (std::int64_t b = 0; b < problem_.batch; ++b) {
      longest = std::max(longest, core::sequence_at(args, problem_, b).rows_q);
    }
    const std::int64_t tiles = core::ceil_div(longest, tiling_.queries);
    const std::int64_t pieces = tiles * problem_.batch * problem_.heads_kv;

    core::parallel_for(pieces * tiling_.splits, workers_, [&](std::int64_t index, int worker) {
      const Piece piece = piece_at(args, pieces - 1 - index / tiling_.splits);
      const Scratch scratch(problem_, tiling_,
                            workspace.data() + static_cast<std::size_t>(worker) * scratch_size_);
      attend(args, piece, index % tiling_.splits, scratch, partials, finisher);
    });
    if (tiling_.splits == 1) return;
    core::parallel_for(pieces, workers_, [&](std::int64_t index, int worker) {
      const Scratch scratch(problem_, tiling_,
                            workspace.data() + static_cast<std::size_t>(worker) * scratch_size_);
      combine(piece_at(args, index), scratch, partials, finisher);
    });
  }

 private:
  struct Piece {
    core::Sequence sequence;
    std::int64_t kv_head = 0;
    std::int64_t first_query = 0, end_query = 0;  // of the output's rows; may be empty
  };

  // Later queries have higher numbers: under a causal mask they are more work, and go first.
  Piece piece_at(const AttentionArgs& args, std::int64_t index) const {
    Piece piece;
    piece.kv_head = index % problem_.heads_kv;
    index /= problem_.heads_kv;
    piece.sequence = core::sequence_at(args, problem_, index % problem_.batch);
    piece.first_query = index / problem_.batch * tiling_.queries;
    piece.end_query = std::min(piece.first_query + tiling_.queries, piece.sequence.rows_q);
    return piece;
  }

  void attend(const AttentionArgs& args, const Piece& piece, std::int64_t split,
              const Scratch& scratch, const Partials& partials, const RowFinisher& finisher) const {
    if (piece.first_query >= piece.end_query) return;
    QueryTile tile(args, problem_, tiling_, scratch, piece.sequence, piece.kv_head,
                   piece.first_query);
    tile.attend(split);
    for_each_row(piece, [&](std::int64_t query, std::int64_t head) {
      float* o = scratch.row;
      if (tiling_.splits > 1) o = partials.o + partial(piece, query, head, split) * problem_.dim_v;
      const double lse = tile.result(query, head, o);
      if (tiling_.splits > 1) {
        partials.lse[partial(piece, query, head, split)] = lse;
      } else {
        finisher.finish(piece.sequence, query, head, lse, o);
      }
    });
  }

  void combine(const Piece& piece, const Scratch& scratch, const Partials& partials,
               const RowFinisher& finisher) const {
    std::vector<PartialRow> shares(static_cast<std::size_t>(tiling_.splits));
    for_each_row(piece, [&](std::int64_t query, std::int64_t head) {
      const std::int64_t first = partial(piece, query, head, 0);
      for (std::int64_t s = 0; s < tiling_.splits; ++s) {
        shares[static_cast<std::size_t>(s)] = {partials.lse[first + s],
                                               partials.o + (first + s) * problem_.dim_v};
      }
      const double lse = merge_rows(shares, problem_.dim_v, scratch.row);
      finisher.finish(piece.sequence, query, head, lse, scratch.row);
    });
  }

  template <class F>
  void for_each_row(const Piece& piece, F&& f) const {
    for (std::int64_t query = piece.first_query; query < piece.end_query; ++query) {
      for (std::int64_t h = 0; h < tiling_.group; ++h) {
        f(query, piece.kv_head * tiling_.group + h);
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
    std::byte* memory = workspace.data() + static_cast<std::size_t>(workers_) * scratch_size_;
    return {reinterpret_cast<double*>(memory),
            reinterpret_cast<float*>(memory + core::aligned_size(partial_rows() * sizeof(double)))};
  }

  Problem problem_;
  int workers_;
  Tiling tiling_;
  std::size_t scratch_size_;
};

}  // namespace

std::unique_ptr<const AttentionKernel> plan_attention(const Problem& problem) {
  return std::make_unique<CpuAttention>(problem);
}

}  // namespace sotto::cpu

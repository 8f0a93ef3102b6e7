#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "cuda/error.h"
#include "cuda/quantize/operations.h"
#include "cuda/quantize/warp_row_params.h"
#include "cuda/quantize/warp_rows.cuh"

namespace sotto::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct ChannelMeanParams {
  WarpRowsParams rows;
  ChannelTable mean;            // written
  std::int64_t max_tokens = 0;  // 0: all
};

// The sums of a block, or of one of its warps.
struct Sums {
  double sum[kMostRowChannels];
  int count[kMostRowChannels];
};

// A cluster of blocks for each (sequence, head): its warps take the tokens in turn, and the first
// block adds up what all have, in an order that does not change.
template <int kParts>
__global__ void __cluster_dims__(kStatisticsCluster, 1, 1) __launch_bounds__(kThreads, 1)
    channel_mean_kernel(const __grid_constant__ ChannelMeanParams p) {
  namespace cg = cooperative_groups;
  const cg::cluster_group cluster = cg::this_cluster();
  __shared__ float shared[kWarps][32 * kParts];
  __shared__ Sums sums;
  const int job = static_cast<int>(blockIdx.x) / kStatisticsCluster;
  const int batch = job / p.rows.heads, head = job % p.rows.heads;
  const int rank = static_cast<int>(cluster.block_rank());
  const int warp = static_cast<int>(threadIdx.x) / 32;
  std::int64_t tokens = sequence_range(p.rows.tokens, batch).used;
  if (p.max_tokens > 0) tokens = min(tokens, p.max_tokens);

  const WarpRows<kParts> rows(p.rows, shared[warp]);
  double sum[kParts] = {};
  int count[kParts] = {};
  for (int token = rank * kWarps + warp; token < tokens; token += kStatisticsCluster * kWarps) {
    float x[kParts];
    rows.read({batch, token, true, true}, head, x);
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      if (!is_finite(x[i])) continue;
      sum[i] += x[i];
      ++count[i];
    }
  }
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const int c = WarpRows<kParts>::channel(i);
        sums.sum[c] = turn == 0 ? sum[i] : sums.sum[c] + sum[i];
        sums.count[c] = turn == 0 ? count[i] : sums.count[c] + count[i];
      }
    }
    __syncthreads();
  }
  cluster.sync();
  if (rank == 0) {
    for (int c = threadIdx.x; c < p.rows.dim; c += kThreads) {
      double total = 0.0;
      int counted = 0;
      for (int r = 0; r < kStatisticsCluster; ++r) {
        const Sums* remote = cluster.map_shared_rank(&sums, r);
        total += remote->sum[c];
        counted += remote->count[c];
      }
      p.mean.at(batch, head, c) = counted > 0 ? static_cast<float>(total / counted) : 0.0f;
    }
  }
  cluster.sync();  // nobody leaves while others read its memory
}

}  // namespace

Reasons refuse(const ChannelMeanArgs& args) { return refuse_rows(args.x); }

void run(const ChannelMeanArgs& args, cudaStream_t stream) {
  ChannelMeanParams p;
  p.rows = warp_rows_params(args.x, args.descale, args.rope, args.hadamard, args.cu_seqlens,
                            args.seqused);
  p.mean = channel_table(args.mean);
  p.max_tokens = args.max_tokens;
  const int jobs = p.rows.tokens.batch * p.rows.heads;
  if (jobs == 0) return;
  with_parts(p.rows.dim, [&](auto parts) {
    channel_mean_kernel<decltype(parts)::value>
        <<<static_cast<unsigned>(jobs * kStatisticsCluster), kThreads, 0, stream>>>(p);
  });
  check(cudaGetLastError(), "launching channel_mean");
}

}  // namespace sotto::cuda

// The kernel that finds the largest magnitude of whole heads, for scales that they have in common.
// A cluster of blocks shares the tiles of a few heads of one sequence and compares through
// distributed shared memory: nothing needs to be cleared before.
#pragma once

#include <cooperative_groups.h>

#include "cuda/quantize/rows.cuh"

namespace sotto::cuda {

// What a cluster works on.
struct StatisticsJob {
  Operand operand = Operand::none;
  int batch = 0;
  int head = 0, heads = 0;  // the first, and how many
};

__device__ inline StatisticsJob statistics_job(const QkvParams& params, int index) {
  for (int o = 0; o < 3; ++o) {
    const OperandParams& operand = params.operands[o];
    if (operand.amax == nullptr) continue;
    const int parts = (operand.heads + params.heads_per_job - 1) / params.heads_per_job;
    const int batch = o == 0 ? params.queries.batch : params.keys.batch;
    if (index < parts * batch) {
      const int head = index % parts * params.heads_per_job;
      return {static_cast<Operand>(o), index / parts, head,
              min(params.heads_per_job, operand.heads - head)};
    }
    index -= parts * batch;
  }
  return {};
}

// A group's share of the tiles of a job: every so many of the sequence, the job's heads in turn.
class StatisticsWork {
 public:
  // means: of the job's heads, or null.
  __device__ StatisticsWork(const QkvParams& params, const StatisticsJob& job, int tokens,
                            int worker, int workers, const float* means)
      : params_(params),
        job_(job),
        tokens_(tokens),
        worker_(worker),
        workers_(workers),
        means_(means) {}

  __device__ unsigned count() const {
    const int tiles = (tokens_ + kTileTokens - 1) / kTileTokens;
    return max(0, (tiles - worker_ + workers_ - 1) / workers_) * job_.heads;
  }
  __device__ WorkItem item(unsigned index) const {
    const int i = static_cast<int>(index);
    const TokenSide& side = job_.operand == Operand::q ? params_.queries : params_.keys;
    const int tile = worker_ + i / job_.heads * workers_, head = i % job_.heads;
    TokenTile tokens = tile_of(side, job_.batch, tile);
    tokens.used = min(tokens.used, tokens_ - tokens.token);
    WorkItem item = work_item(params_, job_.operand, job_.head + head, tile, tokens);
    const int dim = params_.operands[static_cast<int>(job_.operand)].dim;
    if (means_ != nullptr) item.mean = means_ + head * dim;
    return item;
  }

 private:
  const QkvParams& params_;
  StatisticsJob job_;
  int tokens_, worker_, workers_;
  const float* means_;
};

template <int kWidth, class Element>
class Statistician {
  using G = Group<kWidth>;
  static constexpr int kStages = kWidth == 256 ? 2 : 4;

 public:
  using List = WorkList<kWidth, StatisticsWork>;
  struct Storage {
    typename TileRing<kWidth, Element, AnyFeatures, kStages>::Storage ring;
    typename List::Storage list;
    std::uint32_t amax[kMostHeadsPerJob];
  };

  __device__ Statistician(const QkvParams& params, Storage& storage)
      : params_(params), storage_(storage), ring_(params, storage.ring), rows_(params) {}

  __device__ void clear() {
    const int thread = threadIdx.x % G::kThreads;
    if (thread < kMostHeadsPerJob) storage_.amax[thread] = 0;
    G::sync();
  }

  // Of rows less their mean, where there is one.
  __device__ __forceinline__ void find_amax(const StatisticsWork& work, const StatisticsJob& job) {
    const float normalize = params_.operands[static_cast<int>(job.operand)].normalize;
    List list(work, storage_.list);
    ring_.for_each(list, [&](const WorkItem& item) {
      const G group = G::here();
      float largest = 0.0f;
#pragma unroll 1
      for (int pass = 0; pass < G::kPasses; ++pass) {
        RowPart x;
        switch (item.operand) {
          case Operand::q:
            rows_.q(ring_, group, item, pass, x);
            break;
          case Operand::k:
            rows_.k(ring_, group, item, pass, x);
            break;
          default:
            rows_.v(ring_, group, item, pass, x);
        }
        const float all = magnitude(x);
        largest = fmaxf(largest, is_finite(all) ? all : finite_magnitude(x));
      }
      const std::uint32_t of_warp = __reduce_max_sync(~0u, __float_as_uint(largest * normalize));
      if (threadIdx.x % 32 == 0) atomicMax(&storage_.amax[item.head - job.head], of_warp);
    });
  }

 private:
  const QkvParams& params_;
  Storage& storage_;
  TileRing<kWidth, Element, AnyFeatures, kStages> ring_;
  RowReader<kWidth, Element, AnyFeatures, kStages> rows_;
};

template <int kWidth, class Element>
struct StatisticsStorage {
  typename Statistician<kWidth, Element>::Storage groups[Group<kWidth>::kGroups];
};

template <int kWidth, class Element>
__global__ void __cluster_dims__(kStatisticsCluster, 1, 1)
    __launch_bounds__(Group<kWidth>::kBlockThreads, 1)
        statistics_kernel(const __grid_constant__ QkvParams params) {
  using G = Group<kWidth>;
  namespace cg = cooperative_groups;
  const cg::cluster_group cluster = cg::this_cluster();
  extern __shared__ uint4 shared_memory[];
  auto& storage = reinterpret_cast<StatisticsStorage<kWidth, Element>&>(shared_memory);
  begin_kernel(params);

  const StatisticsJob job = statistics_job(params, blockIdx.x / kStatisticsCluster);
  const OperandParams& operand = params.operands[static_cast<int>(job.operand)];
  const TokenSide& side = job.operand == Operand::q ? params.queries : params.keys;
  const int rank = static_cast<int>(cluster.block_rank());
  const int worker = rank * G::kGroups + G::index();
  constexpr int kWorkers = kStatisticsCluster * G::kGroups;
  const int used = sequence_range(side, job.batch).used;
  const std::int64_t first_head = static_cast<std::int64_t>(job.batch) * operand.heads + job.head;

  Statistician<kWidth, Element> statistician(params, storage.groups[G::index()]);
  statistician.clear();
  const float* means = operand.mean == nullptr ? nullptr : operand.mean + first_head * operand.dim;
  const StatisticsWork work(params, job, used, worker, kWorkers, means);
  statistician.find_amax(work, job);
  cluster.sync();
  if (rank == 0) {
    // Each eight lanes look at one place in the memory of the cluster's eight blocks.
    const int head = min(static_cast<int>(threadIdx.x) / kStatisticsCluster, job.heads - 1);
    const auto* remote = cluster.map_shared_rank(&storage, threadIdx.x % kStatisticsCluster);
    std::uint32_t largest = 0;
#pragma unroll
    for (int g = 0; g < G::kGroups; ++g) largest = max(largest, remote->groups[g].amax[head]);
#pragma unroll
    for (int lanes = 1; lanes < kStatisticsCluster; lanes *= 2) {
      largest = max(largest, __shfl_xor_sync(~0u, largest, lanes));
    }
    operand.amax[first_head + head] = __uint_as_float(largest);
  }
  cluster.sync();           // nobody leaves while others read its memory
  wait_for_prior_kernel();  // whoever waits for this kernel may count on that one's end
}

}  // namespace sotto::cuda

// The mean of each channel of a head over the tokens of a sequence, after RoPE and the Hadamard
// transform (which a mean may as well meet alone): by a cluster of blocks, which add up through
// distributed shared memory. Nothing needs to be cleared before, and the same input gives the same
// bits.
#pragma once

#include <cooperative_groups.h>

#include "cuda/common/ptx.h"
#include "cuda/quantize/row.cuh"
#include "cuda/quantize/sequences.cuh"

namespace sotto::cuda {

inline constexpr int kMostChannels = 256;
inline constexpr int kPairsAtOnce = 4;  // that a thread takes of a row

struct MeansStorage {
  float sums[kMostChannels];   // of finite values
  int missing[kMostChannels];  // others
  float mean[2][kMostChannels];
};

// Four pairs of channels: those that RoPE turns, or neighbours.
struct PairPart {
  float first[kPairsAtOnce], second[kPairsAtOnce];
};

// A thread's pairs of a row.
template <class Element>
class PairReader {
 public:
  // As they are stored, and RoPE's factors.
  struct Raw {
    uint2 low, high;
    float4 cos, sin;
  };

  // tables: null without RoPE.
  __device__ PairReader(const RopeTables* tables, int first_pair)
      : tables_(tables), first_pair_(first_pair) {}

  // The channels of pair i.
  __device__ __forceinline__ int first(int i) const {
    const int pair = first_pair_ + i;
    return neighbours(pair) ? 2 * pair : pair;
  }
  __device__ __forceinline__ int second(int i) const {
    const int pair = first_pair_ + i;
    return neighbours(pair) ? 2 * pair + 1 : pair + tables_->rotary_dim / 2;
  }

  // Of an aligned row, with plain tables' rows.
  __device__ __forceinline__ Raw load(const std::uint16_t* row, const float* cos,
                                      const float* sin) const {
    Raw raw;
    raw.low = *reinterpret_cast<const uint2*>(row + first(0));
    raw.high = *reinterpret_cast<const uint2*>(row + (apart() ? second(0) : first(2)));
    if (tables_ == nullptr) return raw;
    raw.cos = *reinterpret_cast<const float4*>(cos + first_pair_);
    raw.sin = *reinterpret_cast<const float4*>(sin + first_pair_);
    return raw;
  }
  __device__ __forceinline__ PairPart rotated(const Raw& raw) const {
    const float2 a = widen<Element>(raw.low.x), b = widen<Element>(raw.low.y);
    const float2 c = widen<Element>(raw.high.x), d = widen<Element>(raw.high.y);
    PairPart x = apart() ? PairPart{{a.x, a.y, b.x, b.y}, {c.x, c.y, d.x, d.y}}
                         : PairPart{{a.x, b.x, c.x, d.x}, {a.y, b.y, c.y, d.y}};
    if (tables_ == nullptr) return x;
    rotate(x.first[0], x.second[0], raw.cos.x, raw.sin.x);
    rotate(x.first[1], x.second[1], raw.cos.y, raw.sin.y);
    rotate(x.first[2], x.second[2], raw.cos.z, raw.sin.z);
    rotate(x.first[3], x.second[3], raw.cos.w, raw.sin.w);
    return x;
  }

  // Of any rows and tables.
  __device__ __forceinline__ PairPart read_slowly(const std::uint16_t* row, int position) const {
    PairPart x;
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      const float a = widen<Element>(row[first(i)]).x, b = widen<Element>(row[second(i)]).x;
      x.first[i] = a;
      x.second[i] = b;
      const int pair = first_pair_ + i;
      if (tables_ == nullptr || 2 * pair >= tables_->rotary_dim) continue;
      const int of_first = tables_->factor_per_channel ? first(i) : pair;
      const int of_second = tables_->factor_per_channel ? second(i) : pair;
      const float* cos = tables_->cos + position * tables_->cos_stride;
      const float* sin = tables_->sin + position * tables_->sin_stride;
      x.first[i] = __fmaf_rn(a, cos[of_first * tables_->cos_channel_stride],
                             -b * sin[of_first * tables_->sin_channel_stride]);
      x.second[i] = __fmaf_rn(b, cos[of_second * tables_->cos_channel_stride],
                              a * sin[of_second * tables_->sin_channel_stride]);
    }
    return x;
  }

 private:
  __device__ __forceinline__ bool apart() const {
    return tables_ != nullptr && tables_->kind == RopeKind::halves;
  }
  __device__ __forceinline__ bool neighbours(int pair) const {
    return tables_ == nullptr || tables_->interleaved || 2 * pair >= tables_->rotary_dim;
  }

  const RopeTables* tables_;
  int first_pair_;
};

// The sums of a thread's eight channels.
struct PairSums {
  float sums[2 * kPairsAtOnce] = {};
  int missing[2 * kPairsAtOnce] = {};

  __device__ __forceinline__ void add(const PairPart& x) {
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      sums[2 * i] += x.first[i];
      sums[2 * i + 1] += x.second[i];
    }
  }
  __device__ __forceinline__ void add_finite(const PairPart& x) {
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      sums[2 * i] += is_finite(x.first[i]) ? x.first[i] : 0.0f;
      sums[2 * i + 1] += is_finite(x.second[i]) ? x.second[i] : 0.0f;
      missing[2 * i] += !is_finite(x.first[i]);
      missing[2 * i + 1] += !is_finite(x.second[i]);
    }
  }
  __device__ __forceinline__ bool finite() const {
    bool all = true;
#pragma unroll
    for (const float sum : sums) all = all && is_finite(sum);
    return all;
  }
};

// Called by all threads of a cluster.
template <class Element, int kThreads>
__device__ void find_means(const QkvParams& params, Operand which, int batch, int head,
                           MeansStorage& storage) {
  const cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
  const OperandParams& operand = params.operands[static_cast<int>(which)];
  const bool query = which == Operand::q;
  const SequenceRange range = sequence_range(query ? params.queries : params.keys, batch);
  const int tokens = operand.mean_tokens > 0 ? min(range.used, operand.mean_tokens) : range.used;
  const RopeTables* tables = operand.rope ? &params.rope : nullptr;
  const int thread = static_cast<int>(threadIdx.x);

  // A row is shared by neighbouring threads.
  const int sharers = operand.dim / (2 * kPairsAtOnce);
  const int rows_at_once = kThreads / sharers;
  const int step = kStatisticsCluster * rows_at_once;
  const int rank = static_cast<int>(cluster.block_rank());
  const int first_token =
      thread < rows_at_once * sharers ? rank * rows_at_once + thread / sharers : tokens;
  const PairReader<Element> reader(tables, thread % sharers * kPairsAtOnce);
  const std::uint16_t* rows = static_cast<const std::uint16_t*>(operand.data) +
                              batch * operand.batch_stride + head * operand.head_stride +
                              range.begin * operand.token_stride;
  PairSums sums;
  const bool by_index =
      tables == nullptr || (tables->kind != RopeKind::general && tables->positions >= tokens &&
                            !query && params.keys.positions == nullptr);
  const bool plain = operand.aligned && by_index;
  if (plain) {
    constexpr int kInFlight = 1024 / kThreads;
    const std::uint16_t* row = rows + first_token * operand.token_stride;
    const float* cos = tables == nullptr ? nullptr : tables->cos + first_token * tables->cos_stride;
    const float* sin = tables == nullptr ? nullptr : tables->sin + first_token * tables->sin_stride;
    const std::int64_t row_step = step * operand.token_stride;
    const std::int64_t cos_step = step * params.rope.cos_stride;
    const std::int64_t sin_step = step * params.rope.sin_stride;
    for (int token = first_token; token < tokens; token += kInFlight * step) {
      typename PairReader<Element>::Raw raw[kInFlight] = {};
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (token + i * step < tokens) raw[i] = reader.load(row, cos, sin);
        row += row_step;
        cos += cos_step;
        sin += sin_step;
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) sums.add(reader.rotated(raw[i]));
    }
  }
  if (!plain || !sums.finite()) {
    sums = {};
#pragma unroll 1
    for (int token = first_token; token < tokens; token += step) {
      const int position = tables == nullptr ? 0 : position_of(params, query, batch, token);
      sums.add_finite(reader.read_slowly(rows + token * operand.token_stride, position));
    }
  }

  __shared__ float part_sums[2 * kPairsAtOnce][kThreads];
  __shared__ int part_missing[2 * kPairsAtOnce][kThreads];
#pragma unroll
  for (int i = 0; i < 2 * kPairsAtOnce; ++i) {
    part_sums[i][thread] = sums.sums[i];
    part_missing[i][thread] = sums.missing[i];
  }
  __syncthreads();
  for (int i = thread; i < operand.dim; i += kThreads) {
    const int sharer = i % sharers, of_eight = i / sharers;
    float sum = 0.0f;
    int missing = 0;
    for (int r = 0; r < rows_at_once; ++r) {
      sum += part_sums[of_eight][r * sharers + sharer];
      missing += part_missing[of_eight][r * sharers + sharer];
    }
    const PairReader<Element> pairs(tables, sharer * kPairsAtOnce);
    const int channel = of_eight % 2 == 0 ? pairs.first(of_eight / 2) : pairs.second(of_eight / 2);
    storage.sums[channel] = sum;
    storage.missing[channel] = missing;
  }
  cluster.sync();
  if (rank != 0) return;

  for (int channel = thread; channel < operand.dim; channel += kThreads) {
    float sum = 0.0f;
    int missing = 0;
#pragma unroll
    for (int r = 0; r < kStatisticsCluster; ++r) {
      const MeansStorage* remote = cluster.map_shared_rank(&storage, r);
      sum += remote->sums[channel];
      missing += remote->missing[channel];
    }
    storage.mean[0][channel] =
        tokens > missing ? __fdiv_rn(sum, static_cast<float>(tokens - missing)) : 0.0f;
  }
  __syncthreads();
  int current = 0;
  for (int distance = 1; distance < operand.hadamard; distance *= 2) {
    for (int i = thread; i < operand.dim; i += kThreads) {
      const float a = storage.mean[current][i & ~distance], b = storage.mean[current][i | distance];
      storage.mean[current ^ 1][i] = i & distance ? a - b : a + b;
    }
    current ^= 1;
    __syncthreads();
  }
  float* mean =
      operand.mean + (static_cast<std::int64_t>(batch) * operand.heads + head) * operand.dim;
  for (int i = thread; i < operand.dim; i += kThreads) mean[i] = storage.mean[current][i];
}

inline constexpr int kMeansThreads = 256;

// One cluster per (operand, sequence, head).
template <class Element>
__global__ void __cluster_dims__(kStatisticsCluster, 1, 1) __launch_bounds__(kMeansThreads, 2)
    means_kernel(const __grid_constant__ QkvParams params) {
  __shared__ MeansStorage storage;
  begin_kernel(params);
  int job = static_cast<int>(blockIdx.x) / kStatisticsCluster;
  for (int o = 0; o < 3; ++o) {
    const OperandParams& operand = params.operands[o];
    if (operand.mean == nullptr) continue;
    const int jobs = operand.heads * (o == 0 ? params.queries.batch : params.keys.batch);
    if (job < jobs) {
      find_means<Element, kMeansThreads>(params, static_cast<Operand>(o), job / operand.heads,
                                         job % operand.heads, storage);
      break;
    }
    job -= jobs;
  }
  cooperative_groups::this_cluster().sync();  // nobody leaves while others read its memory
}

}  // namespace sotto::cuda

// The pieces of work that a group of threads goes through, tiles of 128 tokens of one head, and
// their way to shared memory while earlier ones are worked on.
#pragma once

#include "cuda/common/ptx.h"
#include "cuda/quantize/features.cuh"
#include "cuda/quantize/row.cuh"
#include "cuda/quantize/sequences.cuh"

namespace sotto::cuda {

// A group of threads that goes through tiles on its own: with kWidth 64 two share a block, so that
// every thread has 32 channels of one token (with 256: of two tokens, one after the other).
template <int kWidth>
struct Group {
  static constexpr int kBlockThreads = 512;
  static constexpr int kThreads = kWidth == 64 ? 256 : 512;
  static constexpr int kGroups = kBlockThreads / kThreads;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kLanes = RowLayout<kWidth>::kLanes;
  static constexpr int kTokensAtOnce = kThreads / kLanes;
  static constexpr int kPasses = kTileTokens / kTokensAtOnce;

  int thread;

  // To be asked for anew with each tile: addresses that are made from the thread's index and kept
  // from tile to tile would cost registers.
  __device__ static __forceinline__ Group here() {
    unsigned thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return {static_cast<int>(thread % kThreads)};
  }
  __device__ static int index() { return static_cast<int>(threadIdx.x) / kThreads; }
  __device__ static void sync() { named_sync(1 + index(), kThreads); }

  __device__ int warp() const { return thread / 32; }
  // This thread's token of a tile.
  __device__ int token(int pass) const { return pass * kTokensAtOnce + thread / kLanes; }
  __device__ bool leads_row() const { return thread % kLanes == 0; }
  // The first of a chunk's channels.
  __device__ int channel(int chunk) const {
    return (chunk * kLanes + thread % kLanes) * kChunkChannels;
  }
};

struct alignas(16) WorkItem {
  const std::uint16_t* source;  // the tile's first row
  std::int64_t token_stride;
  const float* mean;        // that the rows meet, or null
  std::uint8_t* codes;      // of the first row; V: of the first channel
  float* scales;            // a scale per token: that of the first; per block: the block's
  float* row_bias;          // of the first row
  std::uint32_t* bad_keys;  // V: the tile's
  float scale;              // of the head's codes, where the head has one
  Operand operand;
  int head;
  int slot;
  int batch;
  int token;  // the first row's in its sequence
  int rows;   // in memory, at most 128
  int used;   // of them; 0: nothing to do
};

// The part of an item that follows from its tile.
__device__ __forceinline__ WorkItem work_item(const QkvParams& params, Operand operand, int head,
                                              int slot, const TokenTile& tile) {
  const OperandParams& of = params.operands[static_cast<int>(operand)];
  WorkItem item{};
  item.operand = operand;
  item.head = head;
  item.slot = slot;
  item.batch = tile.batch;
  item.token = tile.token;
  item.rows = tile.rows;
  item.used = tile.used;
  item.source = static_cast<const std::uint16_t*>(of.data) + tile.batch * of.batch_stride +
                tile.row * of.token_stride + head * of.head_stride;
  item.token_stride = of.token_stride;
  return item;
}

// The items of a group, described a few at a time, one by each lane of its first warp, so that the
// arithmetic behind them is not every thread's.
template <int kWidth, class Work>
class WorkList {
  using G = Group<kWidth>;
  static constexpr int kAtOnce = 32;

 public:
  struct Storage {
    WorkItem items[2 * kAtOnce];
  };

  __device__ WorkList(const Work& work, Storage& storage) : work_(work), storage_(storage) {}

  __device__ unsigned count() const { return work_.count(); }

  // Item i; in order. The last few stay.
  __device__ __forceinline__ const WorkItem& next(unsigned i) {
    if (i % kAtOnce == 0) {
      G::sync();  // everybody is past the items that are replaced
      if (threadIdx.x % G::kThreads < kAtOnce) {
        const unsigned mine = i + threadIdx.x % kAtOnce;
        if (mine < count()) storage_.items[mine % (2 * kAtOnce)] = work_.item(mine);
      }
      G::sync();
    }
    return (*this)[i];
  }
  __device__ __forceinline__ const WorkItem& operator[](unsigned i) const {
    return storage_.items[i % (2 * kAtOnce)];
  }

 private:
  const Work& work_;
  Storage& storage_;
};

__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
  // Without a source, which is not looked at then, the 16 bytes become 0.
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

// The tiles under way. What a thread reads of a tile it has copied itself, and the mean, which a
// warp shares, one of its lanes has: no barrier between warps.
template <int kWidth, class Element, class Features, int kStages>
class TileRing {
  using G = Group<kWidth>;

 public:
  struct Stage {
    uint4 raw[G::kPasses][kChunks][G::kThreads];
    float4 mean[G::kWarps][kWidth / 4];
  };
  struct Storage {
    Stage stages[kStages];
  };

  __device__ TileRing(const QkvParams& params, Storage& storage)
      : params_(params), storage_(storage) {}

  // Calls f(item) for each item of the list, when its tile is there.
  template <class List, class F>
  __device__ __forceinline__ void for_each(List& list, F&& f) {
    const unsigned count = list.count();
    next_ = 0;
    for (unsigned i = 0; i < count + kStages - 1; ++i) {
      __syncwarp();  // the stage was read by the whole warp
      if (i < count) copy(G::here(), list.next(i), storage_.stages[next_]);
      asm volatile("cp.async.commit_group;" ::: "memory");
      next_ = next_ + 1 == kStages ? 0 : next_ + 1;
      if (i < kStages - 1) continue;
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
      __syncwarp();
      const WorkItem& item = list[i - (kStages - 1)];
      if (item.used > 0) f(item);
    }
  }

  // Of the item at hand.
  __device__ __forceinline__ void read(const G& group, int pass, RowPart& x) const {
    RawPart raw;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) raw[j] = current().raw[pass][j][group.thread];
    widen<Element>(raw, x);
  }
  // The mean of the chunk's channels.
  __device__ __forceinline__ const float4* mean(const G& group, int chunk) const {
    return &current().mean[group.warp()][group.channel(chunk) / 4];
  }

 private:
  static constexpr int kChunkPitch = G::kLanes * kChunkChannels;  // channels from chunk to chunk

  // The next stage to be filled is the oldest.
  __device__ __forceinline__ const Stage& current() const { return storage_.stages[next_]; }

  __device__ __forceinline__ void copy(const G& group, const WorkItem& item, Stage& stage) {
    if (item.used <= 0) return;
    const int dim =
        Features::kFullRows ? kWidth : params_.operands[static_cast<int>(item.operand)].dim;
    const bool aligned =
        Features::kFullRows || params_.operands[static_cast<int>(item.operand)].aligned;
#pragma unroll
    for (int pass = 0; pass < G::kPasses; ++pass) {
      const int token = group.token(pass);
      const std::uint16_t* row = item.source + token * item.token_stride + group.channel(0);
      // Of a row that does not count no channel is there.
      const int channels = token < item.used ? dim - group.channel(0) : 0;
      if (aligned) {
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
          copy_async(&stage.raw[pass][j][group.thread], row + j * kChunkPitch,
                     Features::kFullRows ? token < item.used : channels > j * kChunkPitch);
        }
      } else {
#pragma unroll 1
        for (int j = 0; j < kChunks; ++j) {
          stage.raw[pass][j][group.thread] =
              channels > j * kChunkPitch ? assemble(row + j * kChunkPitch) : uint4{};
        }
      }
    }
    if (item.mean == nullptr) return;
    if (!waited_) wait_for_prior_kernel();  // that found the mean
    waited_ = true;
    for (int i = threadIdx.x % 32; i < kWidth / 4; i += 32) {
      const bool there = 4 * i < dim;
      copy_async(&stage.mean[group.warp()][i], item.mean + (there ? 4 * i : 0), there);
    }
  }

  __device__ static __forceinline__ uint4 assemble(const std::uint16_t* from) {
    return {from[0] | static_cast<std::uint32_t>(from[1]) << 16,
            from[2] | static_cast<std::uint32_t>(from[3]) << 16,
            from[4] | static_cast<std::uint32_t>(from[5]) << 16,
            from[6] | static_cast<std::uint32_t>(from[7]) << 16};
  }

  const QkvParams& params_;
  Storage& storage_;
  int next_ = 0;
  bool waited_ = false;  // for the kernel before
};

}  // namespace sotto::cuda

// The shared memory of the 16-bit kernels: what lies where, and the barriers that say when it may
// be read (…_full) or overwritten (…_empty).
#pragma once

#include "cuda/common/ptx.h"
#include "cuda/sm90/kernel.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

// Where things lie in shared memory; all tiles begin at multiples of 1,024 bytes (the base is
// aligned by hand, hence kTotal has as much to spare).
template <HalfConfig kConfig>
struct HalfLayout {
  // What the producer tells the others of the next tile of rows.
  struct Slot {
    Work work;  // batch < 0: there is none
    KeyRange tiles;
    KeyRange seen;  // keys (not tiles) that every row sees
    OwnTiles own[kConfig.warpgroups];
  };
  static constexpr int kRows = 64 * kConfig.warpgroups;
  static constexpr int kSlice = 64;  // elements: the copy engine swizzles rows of 128 bytes
  static constexpr int kSlicesQk = (kConfig.dim_qk + kSlice - 1) / kSlice;
  static constexpr int kSlicesV = (kConfig.dim_v + kSlice - 1) / kSlice;
  static constexpr int kQSliceBytes = kRows * kSlice * 2, kSliceBytes = kConfig.keys * kSlice * 2;
  static constexpr int kQBytes = kSlicesQk * kQSliceBytes;
  static constexpr int kKBytes = kSlicesQk * kSliceBytes, kVBytes = kSlicesV * kSliceBytes;
  static constexpr int kQ = 0, kK = kQ + kQBytes, kV = kK + kConfig.stages * kKBytes;
  static constexpr int kBarriers = kV + kConfig.stages * kVBytes;
  static constexpr int kWork = kBarriers + 8 * (5 * kConfig.stages + 2);  // two, used in turn
  static constexpr int kBadWords = (kConfig.keys + 31) / 32;  // a bit for each key of a tile
  static constexpr int kBad = kWork + 2 * sizeof(Slot);
  static constexpr int kTotal = kBad + kConfig.stages * kBadWords * 4 + 1024;
  static constexpr int kGuardBarrier = 8;  // a named barrier; the consumers' turns have 1, 2, …
  static constexpr int kGuards = 96;       // threads of three warps
  static constexpr int kThreads = 128 * (kConfig.warpgroups + 1);
  static_assert(kTotal <= 227 * 1024);  // of a block on Hopper
  static_assert(kConfig.keys % 16 == 0 && kConfig.dim_qk % 16 == 0 && kConfig.dim_v % 16 == 0);
};

// Every thread that reads or writes with ordinary instructions arrives itself, so that race
// checkers can follow: the guards at v_full, the lanes of the producer that have a warpgroup's
// tiles to tell at q_full, consumers and guards at q_empty. What the tensor cores read, a warp
// releases as one.
template <HalfConfig kConfig>
class HalfMemory {
  using Layout = HalfLayout<kConfig>;
  static constexpr int kStages = kConfig.stages, kWarps = 4 * kConfig.warpgroups;

 public:
  __device__ __forceinline__ explicit HalfMemory(unsigned char* memory)
      : base_((cuda::shared_address(memory) + 1023) / 1024 * 1024) {}

  // By all threads of the block.
  __device__ __forceinline__ void set_up() const {
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) {
        cuda::barrier_init(k_full(s), 1);
        cuda::barrier_init(v_landed(s), 1);
        cuda::barrier_init(v_full(s), Layout::kGuards);
        cuda::barrier_init(k_empty(s), kWarps);
        cuda::barrier_init(v_empty(s), kWarps);
      }
      cuda::barrier_init(q_full(), kConfig.warpgroups);
      cuda::barrier_init(q_empty(), Layout::kThreads - 32);
      cuda::fence_barrier_init();
    }
    __syncthreads();
  }

  __device__ __forceinline__ std::uint32_t q_at() const { return base_ + Layout::kQ; }
  __device__ __forceinline__ std::uint32_t k_at(int s) const {
    return base_ + Layout::kK + s * Layout::kKBytes;
  }
  __device__ __forceinline__ std::uint32_t v_at(int s) const {
    return base_ + Layout::kV + s * Layout::kVBytes;
  }
  __device__ __forceinline__ std::uint32_t k_full(int s) const { return barrier(s); }
  __device__ __forceinline__ std::uint32_t k_empty(int s) const { return barrier(kStages + s); }
  __device__ __forceinline__ std::uint32_t v_full(int s) const { return barrier(2 * kStages + s); }
  __device__ __forceinline__ std::uint32_t v_empty(int s) const { return barrier(3 * kStages + s); }
  // V that the guards must see before it counts as full.
  __device__ __forceinline__ std::uint32_t v_landed(int s) const {
    return barrier(4 * kStages + s);
  }
  __device__ __forceinline__ std::uint32_t q_full() const { return barrier(5 * kStages); }
  __device__ __forceinline__ std::uint32_t q_empty() const { return barrier(5 * kStages + 1); }

  __device__ __forceinline__ typename Layout::Slot& work_slot(int turn) const {
    return at<typename Layout::Slot>(Layout::kWork)[turn & 1];
  }
  // Of a tile of V, in 16 bytes; 8 for each key of a slice.
  __device__ __forceinline__ uint4* chunks_of_v(int s) const {
    return at<uint4>(Layout::kV + s * Layout::kVBytes);
  }
  __device__ __forceinline__ std::uint32_t* bad_keys(int s) const {
    return at<std::uint32_t>(Layout::kBad) + s * Layout::kBadWords;
  }

 private:
  __device__ __forceinline__ std::uint32_t barrier(int i) const {
    return base_ + Layout::kBarriers + 8 * i;
  }
  template <class T>
  __device__ __forceinline__ T* at(int offset) const {
    return static_cast<T*>(__cvta_shared_to_generic(base_ + static_cast<std::uint32_t>(offset)));
  }

  std::uint32_t base_;
};

// Whether some of the rows that all see only the keys `seen` do not see some key of tile n.
template <int kKeys>
__device__ __forceinline__ bool is_edge(const KeyRange& seen, int n) {
  return n * kKeys < seen.begin || (n + 1) * kKeys > seen.end;
}

}  // namespace sotto::sm90

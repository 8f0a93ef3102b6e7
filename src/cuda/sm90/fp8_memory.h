// The shared memory of the 8-bit kernels: what lies where, and the barriers that say when it may be
// read (…_full) or overwritten (…_empty).
#pragma once

#include "cuda/common/ptx.h"
#include "cuda/sm90/kernel.h"
#include "cuda/sm90/work.h"

namespace sotto::sm90 {

// Where things lie in shared memory; all tiles begin at multiples of 1,024 bytes (the base is
// aligned by hand, hence kTotal has as much to spare).
template <Fp8Config kConfig>
struct Fp8Layout {
  // What the producer tells the consumers of the next tile of rows.
  struct Slot {
    Work work;  // batch < 0: there is none
    KeyRange tiles;
    OwnTiles own[kConfig.warpgroups];
    bool bad_keys;  // some of the tiles have; known when the last of them has come
  };
  static constexpr int kRows = 64 * kConfig.warpgroups;
  // The copy engine swizzles rows of at most 128 bytes: longer ones are cut.
  static constexpr int kSlice = kConfig.dim_qk % 128 == 0  ? 128
                                : kConfig.dim_qk % 64 == 0 ? 64
                                                           : 32;
  static constexpr int kSlices = kConfig.dim_qk / kSlice;
  static constexpr int kKeySlice = kConfig.keys < 128 ? kConfig.keys : 128;  // of V
  static constexpr int kKeySlices = kConfig.keys / kKeySlice;
  static constexpr int kOnes = 8;
  static constexpr int kQBytes = kRows * kConfig.dim_qk;
  static constexpr int kKBytes = kConfig.keys * kConfig.dim_qk;
  static constexpr int kVSliceBytes = (kConfig.dim_v + kOnes) * kKeySlice;
  static constexpr int kVBytes = kKeySlices * kVSliceBytes;
  static constexpr int kQ = 0, kK = kQ + kQBytes, kV = kK + kConfig.stages * kKBytes;
  static constexpr int kBarriers = kV + kConfig.stages * kVBytes;
  static constexpr int kWork = kBarriers + 8 * (4 * kConfig.stages + 2);  // two, used in turn
  static constexpr int kScales = kWork + 2 * sizeof(Slot);
  static constexpr int kTotal = kScales + kConfig.stages * sizeof(KeyScales) + 1024;
  static constexpr int kThreads = 128 * (kConfig.warpgroups + 1);
  static_assert(kTotal <= 227 * 1024);  // of a block on Hopper
  static_assert(kConfig.keys % kKeySlice == 0 && kVSliceBytes % 512 == 0 && kKBytes % 1024 == 0);
};

template <Fp8Config kConfig>
class Fp8Memory {
  using Layout = Fp8Layout<kConfig>;
  static constexpr int kStages = kConfig.stages;

 public:
  __device__ __forceinline__ explicit Fp8Memory(unsigned char* memory)
      : memory_(memory + (1024 - cuda::shared_address(memory) % 1024) % 1024),
        base_(cuda::shared_address(memory_)) {}

  // By all threads of the block.
  __device__ __forceinline__ void set_up() const {
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) {
        cuda::barrier_init(k_full(s), 1);
        cuda::barrier_init(v_full(s), 1);
        cuda::barrier_init(k_empty(s), 4 * kConfig.warpgroups);
        cuda::barrier_init(v_empty(s), 4 * kConfig.warpgroups);
      }
      cuda::barrier_init(q_full(), 1);
      cuda::barrier_init(q_empty(), 4 * kConfig.warpgroups);
      cuda::fence_barrier_init();
    }
    constexpr int kWords = Layout::kOnes * Layout::kKeySlice / 4;
    for (int i = static_cast<int>(threadIdx.x); i < kStages * Layout::kKeySlices * kWords;
         i += Layout::kThreads) {
      const int slice = i / kWords;
      word(Layout::kV + slice * Layout::kVSliceBytes + kConfig.dim_v * Layout::kKeySlice +
           i % kWords * 4) = 0x38383838u;  // e4m3 ones
    }
    cuda::fence_async_proxy();
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
  __device__ __forceinline__ std::uint32_t q_full() const { return barrier(4 * kStages); }
  __device__ __forceinline__ std::uint32_t q_empty() const { return barrier(4 * kStages + 1); }

  __device__ __forceinline__ typename Layout::Slot& work_slot(int turn) const {
    return reinterpret_cast<typename Layout::Slot*>(memory_ + Layout::kWork)[turn & 1];
  }
  __device__ __forceinline__ KeyScales& key_scales(int s) const {
    return reinterpret_cast<KeyScales*>(memory_ + Layout::kScales)[s];
  }

 private:
  __device__ __forceinline__ std::uint32_t barrier(int i) const {
    return base_ + Layout::kBarriers + 8 * i;
  }
  __device__ __forceinline__ std::uint32_t& word(int offset) const {
    return *reinterpret_cast<std::uint32_t*>(memory_ + offset);
  }

  unsigned char* memory_;
  std::uint32_t base_;
};

}  // namespace sotto::sm90

// The guards of the 16-bit kernels: three warps that see V of the tiles in which some row does not
// see some key, before the consumers do. P = 0 of a hidden key does not keep a NaN or infinity of V
// out of the products: guards replace it by 0 and leave word of the key.
#pragma once

#include "cuda/common/half2.h"
#include "cuda/sm90/half_memory.h"
#include "cuda/sm90/ring.h"

namespace sotto::sm90 {

// Replaces what is NaN or infinite in a tile of V by 0 and notes its keys; from key `end` on, which
// no row sees, all becomes 0. By all guards; `thread` is the number among them.
template <HalfConfig kConfig>
__device__ __forceinline__ void clean_values(const HalfMemory<kConfig>& memory, int stage, int end,
                                             int thread) {
  using Layout = HalfLayout<kConfig>;
  constexpr std::uint32_t kExponent = cuda::twice(kConfig.bf16 ? 0x7f80u : 0x7c00u);
  constexpr int kChunks = kConfig.keys * 8;  // of a slice
  std::uint32_t* const bad_keys = memory.bad_keys(stage);
  if (thread < Layout::kBadWords) bad_keys[thread] = 0;
  cuda::named_sync(Layout::kGuardBarrier, Layout::kGuards);
  for (int i = thread; i < Layout::kSlicesV * kChunks; i += Layout::kGuards) {
    const int key = i % kChunks / 8;
    uint4& chunk = memory.chunks_of_v(stage)[i];
    if (key >= end) {
      chunk = make_uint4(0, 0, 0, 0);
      continue;
    }
    std::uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    bool bad = false;
#pragma unroll
    for (std::uint32_t& word : words) {
      const std::uint32_t masks = __vcmpeq2(word & kExponent, kExponent);
      bad |= masks != 0;
      word &= ~masks;
    }
    if (!bad) continue;
    chunk = make_uint4(words[0], words[1], words[2], words[3]);
    atomicOr(&bad_keys[key / 32], 1u << key % 32);
  }
}

template <HalfConfig kConfig>
__device__ __forceinline__ void guard(const Params& p, const HalfMemory<kConfig>& memory) {
  using Layout = HalfLayout<kConfig>;
  constexpr int kKeys = kConfig.keys;
  const int thread = static_cast<int>(threadIdx.x) - 32;
  int stage = 0, phase = 0, landed = 0;  // a bit for each stage
  for (int turn = 0;; ++turn) {
    cuda::barrier_wait(memory.q_full(), turn & 1);
    const typename Layout::Slot& slot = memory.work_slot(turn);
    if (slot.work.batch < 0) return;
    const KeyRange tiles = slot.tiles, seen = slot.seen;
    const int last = min(slot.work.row + Layout::kRows, slot.work.len_q) - 1;
    const int end = end_key(p, slot.work, last + mask_offset(p, slot.work));
    cuda::barrier_arrive(memory.q_empty());
    for (int n = tiles.end - 1; n >= tiles.begin; --n) {
      if (is_edge<kKeys>(seen, n)) {
        cuda::barrier_wait(memory.v_landed(stage), landed >> stage & 1);
        landed ^= 1 << stage;
        clean_values(memory, stage, end - n * kKeys, thread);
        cuda::fence_async_proxy();
        cuda::barrier_arrive(memory.v_full(stage));
      }
      advance<kConfig.stages>(stage, phase);
    }
  }
}

}  // namespace sotto::sm90

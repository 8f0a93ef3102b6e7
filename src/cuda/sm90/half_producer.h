// The producing warp of the 16-bit kernels: takes the next tile of rows, tells the others about it
// and has the copy engine bring Q, K and V.
#pragma once

#include "cuda/sm90/half_memory.h"
#include "cuda/sm90/ring.h"
#include "cuda/sm90/schedule.h"

namespace sotto::sm90 {

// A tile of K or V; by one thread.
template <HalfConfig kConfig, int kSlices>
__device__ __forceinline__ void copy_keys(const CUtensorMap& map, std::uint32_t to,
                                          std::uint32_t full, int token, int head, int batch) {
  using Layout = HalfLayout<kConfig>;
  cuda::barrier_expect(full, kSlices * Layout::kSliceBytes);
#pragma unroll
  for (int i = 0; i < kSlices; ++i) {
    cuda::copy_tile(to + i * Layout::kSliceBytes, &map, full, i * Layout::kSlice, token, head,
                    batch);
  }
}

template <HalfConfig kConfig>
__device__ __forceinline__ void produce(const Params& p, const HalfMemory<kConfig>& memory,
                                        const CUtensorMap& q, const CUtensorMap& k,
                                        const CUtensorMap& v) {
  using Layout = HalfLayout<kConfig>;
  constexpr int kRows = Layout::kRows, kKeys = kConfig.keys;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  int stage = 0, phase = 1, turn = 0, tile = -1;
  for (;;) {
    tile = next_tile(p, tile, lane);
    Work work{};
    if (tile < p.tiles && !work_at<kRows>(p, tile, lane, work)) continue;
    cuda::barrier_wait(memory.q_empty(), turn & 1 ^ 1);
    typename Layout::Slot& slot = memory.work_slot(turn++);
    if (tile >= p.tiles) {
      if (lane == 0) slot.work.batch = -1;
      if (lane < kConfig.warpgroups) cuda::barrier_arrive(memory.q_full());
      return;
    }
    if (lane < kConfig.warpgroups) {
      slot.own[lane] = tiles_of_warpgroup<kKeys>(p, work, work.row + 64 * lane);
      if (lane > 0) cuda::barrier_arrive(memory.q_full());
    }
    const KeyRange tiles = tiles_of_rows<kKeys>(p, work, work.row, work.row + kRows - 1);
    const int offset = mask_offset(p, work);
    const KeyRange seen{first_key(p, min(work.row + kRows, work.len_q) - 1 + offset),
                        end_key(p, work, work.row + offset)};
    if (lane == 0) {
      slot.work = work;
      slot.tiles = tiles;
      slot.seen = seen;
      cuda::barrier_expect(memory.q_full(), Layout::kQBytes);
#pragma unroll
      for (int i = 0; i < Layout::kSlicesQk; ++i) {
        cuda::copy_tile(memory.q_at() + i * Layout::kQSliceBytes, &q, memory.q_full(),
                        i * Layout::kSlice, work.token_q + work.row, work.head,
                        p.cu_seqlens_q == nullptr ? work.batch : 0);
      }
    }
    const int head = work.head / (p.heads_q / p.heads_kv);
    const int kv_batch = p.cu_seqlens_k == nullptr ? work.batch : 0;
    for (int n = tiles.end - 1; n >= tiles.begin; --n) {
      const int token = work.token_k + n * kKeys;
      cuda::barrier_wait(memory.k_empty(stage), phase);
      if (lane == 0) {
        copy_keys<kConfig, Layout::kSlicesQk>(k, memory.k_at(stage), memory.k_full(stage), token,
                                              head, kv_batch);
      }
      cuda::barrier_wait(memory.v_empty(stage), phase);
      if (lane == 0) {
        const bool guarded = is_edge<kKeys>(seen, n);
        copy_keys<kConfig, Layout::kSlicesV>(
            v, memory.v_at(stage), guarded ? memory.v_landed(stage) : memory.v_full(stage), token,
            head, kv_batch);
        // In the place of the other guards.
        if (!guarded) cuda::barrier_arrive(memory.v_full(stage), Layout::kGuards - 1);
      }
      advance<kConfig.stages>(stage, phase);
    }
  }
}

}  // namespace sotto::sm90

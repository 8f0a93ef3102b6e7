// The producing warp of the 8-bit kernels: takes the next tile of rows, tells the consumers about
// it and has the copy engine bring Q, K and V.
#pragma once

#include "cuda/sm90/bad_keys.h"
#include "cuda/sm90/fp8_memory.h"
#include "cuda/sm90/ring.h"
#include "cuda/sm90/schedule.h"

namespace sotto::sm90 {

template <Fp8Config kConfig>
__device__ __forceinline__ void produce(const Params& p, const Fp8Memory<kConfig>& memory,
                                        const CUtensorMap& q, const CUtensorMap& k,
                                        const CUtensorMap& v) {
  using Layout = Fp8Layout<kConfig>;
  constexpr int kRows = Layout::kRows, kKeys = kConfig.keys;
  constexpr int kOutside = 1 << 30;  // a coordinate beyond any tensor
  const int lane = static_cast<int>(threadIdx.x) & 31;
  int stage = 0, phase = 1, turn = 0;
  for (;;) {
    const int tile = next_tile(p, -1, lane);  // there is a counter always
    Work work{};
    if (tile < p.tiles && !work_at<kRows>(p, tile, lane, work)) continue;
    cuda::barrier_wait(memory.q_empty(), turn & 1 ^ 1);
    typename Layout::Slot& slot = memory.work_slot(turn++);
    if (tile >= p.tiles) {
      // The last block to come leaves the counter ready for the next launch.
      if (lane == 0 && tile == p.tiles + static_cast<int>(gridDim.x) - 1) *p.next_tile = 0;
      if (lane == 0) {
        slot.work.batch = -1;
        cuda::barrier_arrive(memory.q_full());
      }
      return;
    }
    const int head = work.head / (p.heads_q / p.heads_kv);
    const bool packed = p.cu_seqlens_k != nullptr;
    const VPlace place = v_place(p, work);
    const KeyRange tiles = tiles_of_rows<kKeys>(p, work, work.row, work.row + kRows - 1);
    if (lane == 0) {
      // The consumers may wait for it already.
#pragma unroll
      for (int i = 0; i < Layout::kSlices; ++i) {
        cuda::copy_tile(memory.q_at() + i * kRows * Layout::kSlice, &q, memory.q_full(),
                        i * Layout::kSlice, work.token_q + work.row, work.head,
                        p.cu_seqlens_q == nullptr ? work.batch : 0);
      }
      slot.work = work;
      slot.tiles = tiles;
#pragma unroll
      for (int w = 0; w < kConfig.warpgroups; ++w) {
        slot.own[w] = tiles_of_warpgroup<kKeys>(p, work, work.row + 64 * w);
      }
      slot.bad_keys = false;
      cuda::barrier_expect(memory.q_full(), Layout::kQBytes);
    }
    // Lane 0 copies K and V and tells of them; it has K's scale from lane 1, which reads it while
    // the others read V's. As many as a tile has words look for bad keys.
    const ScaleView& view = lane == 1 ? p.k_scale : p.v_scale;
    const HeadScales scales = scales_of(view, work.batch, head, work.token_k);
    const std::uint32_t* const bad_keys = bad_keys_of(p, place);
    for (int n = tiles.end - 1; n >= tiles.begin; --n) {
      cuda::barrier_wait(memory.k_empty(stage), phase);
      cuda::barrier_wait(memory.v_empty(stage), phase);
      const int word = n * (kKeys / 32) + lane;
      const std::uint32_t bad =
          lane < kKeys / 32 && 32 * word < work.len_k ? __ldg(bad_keys + word) : 0;
      const float scale = scale_at(view, scales, n * kKeys);
      const float k_scale = __shfl_sync(~0u, scale, 1);
      if (lane == 0) {
        memory.key_scales(stage) = {k_scale, scale};
        cuda::barrier_expect(memory.k_full(stage), Layout::kKBytes);
#pragma unroll
        for (int i = 0; i < Layout::kSlices; ++i) {
          cuda::copy_tile(memory.k_at(stage) + i * kKeys * Layout::kSlice, &k, memory.k_full(stage),
                          i * Layout::kSlice, work.token_k + n * kKeys, head,
                          packed ? 0 : work.batch);
        }
      }
      const bool any_bad = __any_sync(~0u, bad != 0);
      if (lane == 0) {
        if (any_bad) slot.bad_keys = true;
        cuda::barrier_expect(memory.v_full(stage), kKeys * kConfig.dim_v);
#pragma unroll
        for (int i = 0; i < Layout::kKeySlices; ++i) {
          // Behind the sequence there may be anything; outside of the tensor there are zeros.
          const int key = n * kKeys + i * Layout::kKeySlice;
          cuda::copy_tile(memory.v_at(stage) + i * Layout::kVSliceBytes, &v, memory.v_full(stage),
                          key < work.len_k ? place.token + key : kOutside, 0, place.slot);
        }
      }
      advance<kConfig.stages>(stage, phase);
    }
  }
}

}  // namespace sotto::sm90

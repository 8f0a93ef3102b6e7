// Attention of 16-bit Q, K and V on Hopper's tensor cores.
//
//     producer (one warp): next tile of rows ► Q ► K V K V …      by the copy engine, kStages deep
//     guards (three warps): V of the tiles in which some row does not see some key
//     consumers (kWarpgroups × 64 rows), for each tile of keys j:
//         tensor cores   Q·K(j) │ P·V(j-1)            │ the other warpgroups' products
//         other pipes           │ P(j) from S(j), if kConfig.overlap; else … P(j)
//
// - The registers of S, rounded to 16 bits, are the A operand of P·V: no shuffles. V stays as it
//   is, [token][dim]: the tensor cores read it transposed.
// - Maxima are not looked for, see half_scores.h.
// - Two warpgroups take turns on the tensor cores, so that one computes P while the other
//   multiplies; three find that order by themselves.
// - What is not finite in V, guards replace by 0 and leave word of the key, see half_guards.h: the
//   rows that see the key become NaN.
// - Scores that overflow leave a row without a sum; it is done again at the end, see
//   half_lost_rows.h.
#pragma once

#include "cuda/common/wgmma.h"
#include "cuda/sm90/epilogue.h"
#include "cuda/sm90/half_guards.h"
#include "cuda/sm90/half_lost_rows.h"
#include "cuda/sm90/half_producer.h"
#include "cuda/sm90/half_scores.h"

namespace sotto::sm90 {

template <HalfConfig kConfig>
class HalfConsumer {
  using Layout = HalfLayout<kConfig>;
  using Slot = typename Layout::Slot;
  static constexpr int kKeys = kConfig.keys;

 public:
  __device__ __forceinline__ HalfConsumer(const Params& p, const HalfMemory<kConfig>& memory)
      : p_(p), memory_(memory) {}

  __device__ __forceinline__ void consume(int warpgroup) {
    int stage = 0, phase = 0;
    if (warpgroup == kConfig.warpgroups - 1) pass_turn();
    for (int turn = 0;; ++turn) {
      cuda::barrier_wait(memory_.q_full(), turn & 1);
      const Slot& slot = memory_.work_slot(turn);
      if (cuda::warp_uniform(slot.work.batch) < 0) return;
      attend(slot, warpgroup, stage, phase);
    }
  }

 private:
  using Scores = HalfScores<kConfig.bf16, kKeys>;
  using Values =
      cuda::MmaRs<std::conditional_t<kConfig.bf16, cuda::Bf16AlongNToF32, cuda::F16AlongNToF32>,
                  kConfig.dim_v>;

  // The rows of one warpgroup: the heart of the kernel.
  __device__ __forceinline__ void attend(const Slot& slot, int warpgroup, int& stage, int& phase) {
    const Work& work = slot.work;
    const int lane = thread_of_warpgroup() % 32;
    const OwnTiles& own = slot.own[warpgroup];
    const KeyRange seen{cuda::warp_uniform(slot.seen.begin), cuda::warp_uniform(slot.seen.end)};
    KeyRange tiles{cuda::warp_uniform(own.some.begin), cuda::warp_uniform(own.some.end)};
    if (tiles.begin >= tiles.end) tiles.begin = tiles.end = cuda::warp_uniform(slot.tiles.begin);

    Scores scores;
    scores.start();
    typename Scores::Tile s;
    typename Scores::Pairs pairs;
    float o[Values::kCount];
#pragma unroll
    for (int i = 0; i < Values::kCount; ++i) o[i] = 0;

    const auto issue_scores = [&](std::uint64_t q, int at) {
      const std::uint64_t k = cuda::matrix_descriptor<128>(memory_.k_at(at));
#pragma unroll
      for (int i = 0; i < kConfig.dim_qk / 16; ++i) {
        const int slice = i / 4, step = i % 4 * 32;
        const std::uint64_t a = cuda::advanced(q, slice * Layout::kQSliceBytes + step);
        const std::uint64_t b = cuda::advanced(k, slice * Layout::kSliceBytes + step);
        if (i == 0) {
          Scores::Mma::start(s, a, b);
        } else {
          Scores::Mma::add(s, a, b);
        }
      }
      cuda::mma_commit();
    };
    const auto issue_values = [&](int at) {
      const std::uint64_t v =
          cuda::matrix_descriptor_along_n(memory_.v_at(at), Layout::kSliceBytes);
#pragma unroll
      for (int i = 0; i < kKeys / 16; ++i) {
        Values::add(o, pairs + 4 * i, cuda::advanced(v, i * 16 * 128));
      }
      cuda::mma_commit();
    };
    const auto mask = [&](int n) {
      return mask_of_rows(p_, work, row(work), n * kKeys + 2 * (thread() % 4));
    };
    bool moved = false;
    float shrink[2];
    // S of tile n to P.
    const auto softmax = [&](int n, typename Scores::Pairs& to) {
      float factor = p_.scale_log2;  // x = S·factor
      if (p_.softcap_log2 > 0) {
        cap_scores(work, row(work), s);
        factor = 1;
      }
      if (is_edge<kKeys>(seen, n) && is_edge<kKeys>(own.all, n)) {
        Scores::hide(s, factor, mask(n));
        factor = 1;
      }
      moved = scores.probabilities(s, factor, to, shrink);
    };
    const auto rescale = [&] {
      if (!moved) return;
#pragma unroll
      for (int i = 0; i < Values::kCount; ++i) o[i] *= shrink[i >> 1 & 1];
    };
    // V of tile n is there.
    const auto wait_for_values = [&](int n) {
      cuda::barrier_wait(memory_.v_full(stage), phase);
      if (is_edge<kKeys>(seen, n)) spoil_rows(mask(n), stage, o);
    };
    const auto finish_values = [&](int at) {
      cuda::mma_wait<0>();
      cuda::pin(o);
      cuda::pin(pairs);
      release(memory_.v_empty(at), lane);
    };

    skip(cuda::warp_uniform(slot.tiles.end) - 1, tiles.end - 1, lane, stage, phase);
    if (tiles.begin < tiles.end) {
      cuda::barrier_wait(memory_.k_full(stage), phase);
      take_turn();
      cuda::mma_fence();
      issue_scores(q_rows(), cuda::warp_uniform(stage));
      pass_turn();
      cuda::mma_wait<0>();
      cuda::pin(s);
      release(memory_.k_empty(stage), lane);
      softmax(tiles.end - 1, pairs);

      // S of tile n, P·V of the one before it.
      for (int n = tiles.end - 2; n >= tiles.begin; --n) {
        const int before = cuda::warp_uniform(stage);
        const std::uint64_t q = q_rows();
        wait_for_values(n + 1);
        advance<kConfig.stages>(stage, phase);
        cuda::barrier_wait(memory_.k_full(stage), phase);
        take_turn();
        cuda::pin(o);
        cuda::pin(pairs);
        cuda::mma_fence();
        issue_scores(q, cuda::warp_uniform(stage));
        issue_values(before);
        pass_turn();
        cuda::mma_wait<1>();
        cuda::pin(s);
        release(memory_.k_empty(stage), lane);
        if constexpr (kConfig.overlap) {
          typename Scores::Pairs next;
          softmax(n, next);
          finish_values(before);
          rescale();
          keep(pairs, next);
        } else {
          finish_values(before);
          softmax(n, pairs);
          rescale();
        }
      }
      cuda::barrier_arrive(memory_.q_empty());

      wait_for_values(tiles.begin);
      cuda::pin(o);
      cuda::pin(pairs);
      cuda::mma_fence();
      issue_values(cuda::warp_uniform(stage));
      finish_values(stage);
      advance<kConfig.stages>(stage, phase);
    } else {
      cuda::barrier_arrive(memory_.q_empty());
    }
    skip(tiles.begin - 1, cuda::warp_uniform(slot.tiles.begin) - 1, lane, stage, phase);

    float factor[2], total[2], log2_sum[2];
    bool lost[2];
    const int first = row(work);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] = scores.total(r);
      log2_sum[r] = scores.log2_sum(r, total[r]);
      lost[r] = !(log2_sum[r] > -INFINITY);
    }
    if (__any_sync(~0u, lost[0] || lost[1])) {
      LostRows<kConfig.bf16>(p_, work, first, lane, lost).redo(o, total, log2_sum);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      factor[r] = finish_row(p_, work, first + 8 * r, (lane & 3) == 0 && first + 8 * r < work.rows,
                             log2_sum[r], total[r]);
    }
    store_rows<kConfig.dim_v>(p_, work, first, lane, o, factor, total);
  }

  // Read and worked out anew where they are needed: registers are scarce.
  static __device__ __forceinline__ int thread() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  }
  static __device__ __forceinline__ int thread_of_warpgroup() { return thread() % 128; }
  // Row of the thread; and the one 8 further on.
  static __device__ __forceinline__ int row(const Work& work) {
    const int consumer = thread() - 128;
    return work.row + consumer / 32 * 16 + consumer % 32 / 4;
  }
  // The warpgroup's rows of Q.
  __device__ __forceinline__ std::uint64_t q_rows() const {
    const int warpgroup = cuda::warp_uniform(thread() / 128 - 1);
    return cuda::matrix_descriptor<128>(memory_.q_at() + 64 * warpgroup * 128);
  }
  // Rows that see a bad key of the tile become NaN.
  __device__ __forceinline__ void spoil_rows(const KeyMask& mask, int stage,
                                             float (&o)[Values::kCount]) const {
    const int first = 2 * (thread() % 4);  // columns of `mask` count from there
    bool spoilt[2] = {false, false};
    for (int w = 0; w < Layout::kBadWords; ++w) {
      // Read by the lane that releases V.
      std::uint32_t bits = thread() % 32 == 0 ? memory_.bad_keys(stage)[w] : 0;
      for (bits = __shfl_sync(~0u, bits, 0); bits != 0; bits &= bits - 1) {
        const int column = w * 32 + __ffs(static_cast<int>(bits)) - 1 - first;
        spoilt[0] |= mask.sees(0, column);
        spoilt[1] |= mask.sees(1, column);
      }
    }
    if (!__any_sync(~0u, spoilt[0] | spoilt[1])) return;
#pragma unroll
    for (int i = 0; i < Values::kCount; ++i) o[i] = spoilt[i >> 1 & 1] ? NAN : o[i];
  }

  // Tiles from ... down to `to` + 1, that only other warpgroups of the block need.
  __device__ __forceinline__ void skip(int from, int to, int lane, int& stage, int& phase) const {
#pragma unroll 1
    for (int n = from; n > to; --n) {
      take_turn();
      pass_turn();
      cuda::barrier_wait(memory_.k_full(stage), phase);
      cuda::barrier_wait(memory_.v_full(stage), phase);
      __syncwarp();
      release(memory_.k_empty(stage), lane);
      release(memory_.v_empty(stage), lane);
      advance<kConfig.stages>(stage, phase);
    }
  }

  // to = from. ptxas serialises the products if what one reads was written while others ran
  // (C7513); this looks as if it were written afterwards.
  template <int kCount>
  static __device__ __forceinline__ void keep(std::uint32_t (&to)[kCount],
                                              const std::uint32_t (&from)[kCount]) {
    const std::uint32_t zero = threadIdx.x >> 10;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm volatile("or.b32 %0, %1, %2;" : "=r"(to[i]) : "r"(from[i]), "r"(zero));
    }
  }

  __device__ __forceinline__ void cap_scores(const Work& work, int row,
                                             typename Scores::Tile& s) const {
    const float bias[2] = {bias_of_row(p_, work, row), bias_of_row(p_, work, row + 8)};
    Scores::cap(p_, s, bias);
  }

  // Every warpgroup takes one turn for each tile of the block, whether it needs the tile or not.
  static __device__ __forceinline__ void take_turn() {
    if constexpr (kConfig.warpgroups == 2) cuda::named_sync(thread() / 128, 256);
  }
  static __device__ __forceinline__ void pass_turn() {
    if constexpr (kConfig.warpgroups == 2) cuda::named_arrive(3 - thread() / 128, 256);
  }

  const Params& p_;
  const HalfMemory<kConfig>& memory_;
};

// Instance has the configuration as kConfig (nvcc takes no such value as a kernel's parameter).
template <class Instance>
__global__ void __launch_bounds__(HalfLayout<Instance::kConfig>::kThreads, 1)
    half_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                const __grid_constant__ CUtensorMap v, const __grid_constant__ Params params) {
  extern __shared__ unsigned char memory[];
  constexpr HalfConfig kConfig = Instance::kConfig;
  const HalfMemory<kConfig> shared(memory);
  shared.set_up();
  cuda::wait_for_prior_kernel();
  const int warpgroup = cuda::warp_uniform(static_cast<int>(threadIdx.x) / 128);
  if (warpgroup == 0) {
    cuda::give_registers<kConfig.warpgroups == 3 ? 32 : 40>();
    if (threadIdx.x < 32) {
      produce(params, shared, q, k, v);
    } else {
      guard(params, shared);
    }
  } else {
    cuda::take_registers<kConfig.warpgroups == 3 ? 160 : 232>();
    HalfConsumer<kConfig>(params, shared).consume(warpgroup - 1);
  }
}

template <class Instance>
Kernel<HalfConfig> half_instance() {
  using Layout = HalfLayout<Instance::kConfig>;
  return {.config = Instance::kConfig,
          .function = reinterpret_cast<const void*>(&half_kernel<Instance>),
          .rows = Layout::kRows,
          .threads = Layout::kThreads,
          .shared_bytes = Layout::kTotal,
          .q_slice = Layout::kSlice,
          .k_slice = Layout::kSlice,
          .v_slice = Layout::kSlice};
}

}  // namespace sotto::sm90

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
// - P = 0 of a hidden key does not keep a NaN or infinity of V out of the products: guards replace
//   it by 0 and leave word of the key, and the rows that see the key become NaN.
#pragma once

#include "cuda/common/wgmma.h"
#include "cuda/sm90/epilogue.h"
#include "cuda/sm90/half_scores.h"
#include "cuda/sm90/kernel.h"
#include "cuda/sm90/schedule.h"

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
  static constexpr int kKBytes = kSlicesQk * kSliceBytes, kVBytes = kSlicesV * kSliceBytes;
  static constexpr int kQ = 0, kQBytes = kSlicesQk * kQSliceBytes;
  static constexpr int kK = kQBytes, kV = kK + kConfig.stages * kKBytes;
  static constexpr int kBarriers = kV + kConfig.stages * kVBytes;
  static constexpr int kWork = kBarriers + 8 * (5 * kConfig.stages + 2);  // two, used in turn
  static constexpr int kBadWords = (kConfig.keys + 31) / 32;  // a bit for each key of a tile
  static constexpr int kBad = kWork + 2 * sizeof(Slot);
  static constexpr int kTotal = kBad + kConfig.stages * kBadWords * 4 + 1024;
  static constexpr int kThreads = 128 * (kConfig.warpgroups + 1);
  static_assert(kConfig.keys % 16 == 0 && kConfig.dim_qk % 16 == 0 && kConfig.dim_v % 16 == 0);
};

template <HalfConfig kConfig>
class HalfBlock {
  using Layout = HalfLayout<kConfig>;
  using Slot = typename Layout::Slot;
  static constexpr int kRows = Layout::kRows, kKeys = kConfig.keys, kStages = kConfig.stages;
  static constexpr int kWarps = 4 * kConfig.warpgroups, kGuards = 96;
  static constexpr int kGuardBarrier = 8;  // named barriers; turns have 1, 2, …

 public:
  __device__ __forceinline__ HalfBlock(const Params& p, unsigned char* memory)
      : p_(p), base_((cuda::shared_address(memory) + 1023) / 1024 * 1024) {}

  __device__ __forceinline__ void set_up() {
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) {
        cuda::barrier_init(k_full(s), 1);
        cuda::barrier_init(v_full(s), 1);
        cuda::barrier_init(v_landed(s), 1);
        cuda::barrier_init(k_empty(s), kWarps);
        cuda::barrier_init(v_empty(s), kWarps);
      }
      cuda::barrier_init(q_full(), 1);
      cuda::barrier_init(q_empty(), kWarps + 1);
      cuda::fence_barrier_init();
    }
    __syncthreads();
  }

  __device__ __forceinline__ void produce(const CUtensorMap& q, const CUtensorMap& k,
                                          const CUtensorMap& v) {
    const int lane = static_cast<int>(threadIdx.x) & 31;
    int stage = 0, phase = 1, turn = 0;
    for (;;) {
      int tile = 0;
      if (lane == 0) tile = static_cast<int>(atomicAdd(p_.next_tile, 1u));
      tile = __shfl_sync(~0u, tile, 0);
      Work work{};
      if (tile < p_.tiles && !work_at<kRows>(p_, tile, lane, work)) continue;
      cuda::barrier_wait(q_empty(), turn & 1 ^ 1);
      Slot& slot = work_slot(turn++);
      if (tile >= p_.tiles) {
        if (lane == 0) {
          slot.work.batch = -1;
          cuda::barrier_arrive(q_full());
        }
        return;
      }
      const int head = work.head / (p_.heads_q / p_.heads_kv);
      const int kv_batch = p_.cu_seqlens_k == nullptr ? work.batch : 0;
      const KeyRange tiles = tiles_of_rows<kKeys>(p_, work, work.row, work.row + kRows - 1);
      const int offset = mask_offset(p_, work);
      const KeyRange seen{first_key(p_, min(work.row + kRows, work.len_q) - 1 + offset),
                          end_key(p_, work, work.row + offset)};
      if (lane < kConfig.warpgroups) {
        slot.own[lane] = tiles_of_warpgroup<kKeys>(p_, work, work.row + 64 * lane);
      }
      __syncwarp();
      if (lane == 0) {
        slot.work = work;
        slot.tiles = tiles;
        slot.seen = seen;
        cuda::barrier_expect(q_full(), Layout::kQBytes);
#pragma unroll
        for (int i = 0; i < Layout::kSlicesQk; ++i) {
          cuda::copy_tile(base_ + Layout::kQ + i * Layout::kQSliceBytes, &q, q_full(),
                          i * Layout::kSlice, work.token_q + work.row, work.head,
                          p_.cu_seqlens_q == nullptr ? work.batch : 0);
        }
      }
      for (int n = tiles.end - 1; n >= tiles.begin; --n) {
        const int token = work.token_k + n * kKeys;
        cuda::barrier_wait(k_empty(stage), phase);
        if (lane == 0) {
          copy_keys<Layout::kSlicesQk>(k, k_at(stage), k_full(stage), token, head, kv_batch);
        }
        cuda::barrier_wait(v_empty(stage), phase);
        if (lane == 0) {
          copy_keys<Layout::kSlicesV>(v, v_at(stage),
                                      is_edge(seen, n) ? v_landed(stage) : v_full(stage), token,
                                      head, kv_batch);
        }
        advance(stage, phase);
      }
    }
  }

  __device__ __forceinline__ void guard() {
    const int thread = static_cast<int>(threadIdx.x) - 32;
    int stage = 0, phase = 0, landed = 0;  // a bit for each stage
    for (int turn = 0;; ++turn) {
      cuda::barrier_wait(q_full(), turn & 1);
      const Slot& slot = work_slot(turn);
      if (slot.work.batch < 0) return;
      const KeyRange tiles = slot.tiles, seen = slot.seen;
      const int last = min(slot.work.row + kRows, slot.work.len_q) - 1;
      const int end = end_key(p_, slot.work, last + mask_offset(p_, slot.work));
      cuda::named_sync(kGuardBarrier, kGuards);
      if (thread == 0) cuda::barrier_arrive(q_empty());
      for (int n = tiles.end - 1; n >= tiles.begin; --n) {
        if (is_edge(seen, n)) {
          cuda::barrier_wait(v_landed(stage), landed >> stage & 1);
          landed ^= 1 << stage;
          clean_values(stage, end - n * kKeys, thread);
          cuda::fence_async_proxy();
          cuda::named_sync(kGuardBarrier, kGuards);
          if (thread == 0) cuda::barrier_arrive(v_full(stage));
        }
        advance(stage, phase);
      }
    }
  }

  __device__ __forceinline__ void consume(int warpgroup) {
    int stage = 0, phase = 0;
    if (warpgroup == kConfig.warpgroups - 1) pass_turn();
    for (int turn = 0;; ++turn) {
      cuda::barrier_wait(q_full(), turn & 1);
      const Slot& slot = work_slot(turn);
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
      const std::uint64_t k = cuda::matrix_descriptor<128>(k_at(at));
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
      const std::uint64_t v = cuda::matrix_descriptor_along_n(v_at(at), Layout::kSliceBytes);
#pragma unroll
      for (int i = 0; i < kKeys / 16; ++i) {
        Values::add(o, pairs + 4 * i, cuda::advanced(v, i * 16 * 128));
      }
      cuda::mma_commit();
    };
    const auto mask = [&](int n) {
      KeyMask seen;
      const int column = n * kKeys + 2 * (thread() % 4), first = row(work);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int diagonal = first + 8 * r + mask_offset(p_, work);
        seen.begin[r] = first_key(p_, diagonal) - column;
        seen.end[r] = end_key(p_, work, diagonal) - column;
      }
      return seen;
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
      if (is_edge(seen, n) && is_edge(own.all, n)) {
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
      cuda::barrier_wait(v_full(stage), phase);
      if (is_edge(seen, n)) spoil_rows(mask(n), stage, o);
    };
    const auto finish_values = [&](int at) {
      cuda::mma_wait<0>();
      cuda::pin(o);
      cuda::pin(pairs);
      release(v_empty(at), lane);
    };

    skip(cuda::warp_uniform(slot.tiles.end) - 1, tiles.end - 1, lane, stage, phase);
    if (tiles.begin < tiles.end) {
      cuda::barrier_wait(k_full(stage), phase);
      take_turn();
      cuda::mma_fence();
      issue_scores(q_rows(), cuda::warp_uniform(stage));
      pass_turn();
      cuda::mma_wait<0>();
      cuda::pin(s);
      release(k_empty(stage), lane);
      softmax(tiles.end - 1, pairs);

      // S of tile n, P·V of the one before it.
      for (int n = tiles.end - 2; n >= tiles.begin; --n) {
        const int before = cuda::warp_uniform(stage);
        const std::uint64_t q = q_rows();
        wait_for_values(n + 1);
        advance(stage, phase);
        cuda::barrier_wait(k_full(stage), phase);
        take_turn();
        cuda::pin(o);
        cuda::pin(pairs);
        cuda::mma_fence();
        issue_scores(q, cuda::warp_uniform(stage));
        issue_values(before);
        pass_turn();
        cuda::mma_wait<1>();
        cuda::pin(s);
        release(k_empty(stage), lane);
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
      release(q_empty(), lane);

      wait_for_values(tiles.begin);
      cuda::pin(o);
      cuda::pin(pairs);
      cuda::mma_fence();
      issue_values(cuda::warp_uniform(stage));
      finish_values(stage);
      advance(stage, phase);
    } else {
      release(q_empty(), lane);
    }
    skip(tiles.begin - 1, cuda::warp_uniform(slot.tiles.begin) - 1, lane, stage, phase);

    float factor[2], total[2];
    const int first = row(work);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] = scores.total(r);
      factor[r] = finish_row(p_, work, first + 8 * r, (lane & 3) == 0 && first + 8 * r < work.rows,
                             scores.log2_sum(r, total[r]), total[r]);
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
    return cuda::matrix_descriptor<128>(base_ + Layout::kQ + 64 * warpgroup * 128);
  }
  // Whether some of the rows that all see only the keys `seen` do not see some key of tile n.
  static __device__ __forceinline__ bool is_edge(const KeyRange& seen, int n) {
    return n * kKeys < seen.begin || (n + 1) * kKeys > seen.end;
  }

  template <int kSlices>
  __device__ __forceinline__ void copy_keys(const CUtensorMap& map, std::uint32_t to,
                                            std::uint32_t full, int token, int head,
                                            int batch) const {
    cuda::barrier_expect(full, kSlices * Layout::kSliceBytes);
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
      cuda::copy_tile(to + i * Layout::kSliceBytes, &map, full, i * Layout::kSlice, token, head,
                      batch);
    }
  }

  // Replaces what is NaN or infinite in a tile of V by 0 and notes its keys; from key `end` on,
  // which no row sees, all becomes 0. By all guards.
  __device__ __forceinline__ void clean_values(int stage, int end, int thread) const {
    if (thread < Layout::kBadWords) bad_keys(stage)[thread] = 0;
    cuda::named_sync(kGuardBarrier, kGuards);
    constexpr std::uint32_t kExponent = kConfig.bf16 ? 0x7f80u : 0x7c00u;
    constexpr int kChunks = kKeys * 8;  // of 16 bytes in a slice, 8 for each key
    for (int i = thread; i < Layout::kSlicesV * kChunks; i += kGuards) {
      const int key = i % kChunks / 8;
      uint4& chunk = at<uint4>(Layout::kV + stage * Layout::kVBytes)[i];
      if (key >= end) {
        chunk = make_uint4(0, 0, 0, 0);
        continue;
      }
      std::uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
      bool bad = false;
#pragma unroll
      for (std::uint32_t& word : words) {
        const std::uint32_t masks =
            __vcmpeq2(word & cuda::twice(kExponent), cuda::twice(kExponent));
        bad |= masks != 0;
        word &= ~masks;
      }
      if (!bad) continue;
      chunk = make_uint4(words[0], words[1], words[2], words[3]);
      atomicOr(&bad_keys(stage)[key / 32], 1u << key % 32);
    }
  }
  // Rows that see a bad key of the tile become NaN.
  __device__ __forceinline__ void spoil_rows(const KeyMask& mask, int stage,
                                             float (&o)[Values::kCount]) const {
    const int first = 2 * (thread() % 4);  // columns of `mask` count from there
    bool spoilt[2] = {false, false};
    for (int w = 0; w < Layout::kBadWords; ++w) {
      for (std::uint32_t bits = bad_keys(stage)[w]; bits != 0; bits &= bits - 1) {
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
      cuda::barrier_wait(k_full(stage), phase);
      cuda::barrier_wait(v_full(stage), phase);
      __syncwarp();
      release(k_empty(stage), lane);
      release(v_empty(stage), lane);
      advance(stage, phase);
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
    float bias[2] = {0, 0};
    if (p_.row_bias.data != nullptr) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        bias[r] = __ldg(p_.row_bias.data +
                        row_offset(p_.row_bias, work, min(row + 8 * r, work.rows - 1))) *
                  kLog2e;
      }
    }
    Scores::cap(p_, s, bias);
  }

  // Every warpgroup takes one turn for each tile of the block, whether it needs the tile or not.
  static __device__ __forceinline__ void take_turn() {
    if constexpr (kConfig.warpgroups == 2) cuda::named_sync(thread() / 128, 256);
  }
  static __device__ __forceinline__ void pass_turn() {
    if constexpr (kConfig.warpgroups == 2) cuda::named_arrive(3 - thread() / 128, 256);
  }

  static __device__ __forceinline__ void advance(int& stage, int& phase) {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  // Every warp by itself, so that none can be a whole round behind.
  static __device__ __forceinline__ void release(std::uint32_t barrier, int lane) {
    if (lane == 0) cuda::barrier_arrive(barrier);
  }

  __device__ __forceinline__ std::uint32_t k_at(int s) const {
    return base_ + Layout::kK + s * Layout::kKBytes;
  }
  __device__ __forceinline__ std::uint32_t v_at(int s) const {
    return base_ + Layout::kV + s * Layout::kVBytes;
  }
  __device__ __forceinline__ std::uint32_t barrier(int i) const {
    return base_ + Layout::kBarriers + 8 * i;
  }
  __device__ __forceinline__ std::uint32_t k_full(int s) const { return barrier(s); }
  __device__ __forceinline__ std::uint32_t k_empty(int s) const { return barrier(kStages + s); }
  __device__ __forceinline__ std::uint32_t v_full(int s) const { return barrier(2 * kStages + s); }
  __device__ __forceinline__ std::uint32_t v_empty(int s) const { return barrier(3 * kStages + s); }
  __device__ __forceinline__ std::uint32_t v_landed(int s) const {
    return barrier(4 * kStages + s);
  }
  __device__ __forceinline__ std::uint32_t q_full() const { return barrier(5 * kStages); }
  __device__ __forceinline__ std::uint32_t q_empty() const { return barrier(5 * kStages + 1); }

  template <class T>
  __device__ __forceinline__ T* at(int offset) const {
    return static_cast<T*>(__cvta_shared_to_generic(base_ + static_cast<std::uint32_t>(offset)));
  }
  __device__ __forceinline__ Slot& work_slot(int turn) const {
    return at<Slot>(Layout::kWork)[turn & 1];
  }
  __device__ __forceinline__ std::uint32_t* bad_keys(int s) const {
    return at<std::uint32_t>(Layout::kBad) + s * Layout::kBadWords;
  }

  const Params& p_;
  std::uint32_t base_;
};

// Instance has the configuration as kConfig (nvcc takes no such value as a kernel's parameter).
template <class Instance>
__global__ void __launch_bounds__(HalfLayout<Instance::kConfig>::kThreads, 1)
    half_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                const __grid_constant__ CUtensorMap v, const __grid_constant__ Params params) {
  extern __shared__ unsigned char memory[];
  constexpr HalfConfig kConfig = Instance::kConfig;
  static_assert(HalfLayout<kConfig>::kTotal <= 227 * 1024);
  HalfBlock<kConfig> block(params, memory);
  block.set_up();
  cuda::wait_for_prior_kernel();
  const int warpgroup = cuda::warp_uniform(static_cast<int>(threadIdx.x) / 128);
  if (warpgroup == 0) {
    cuda::give_registers<kConfig.warpgroups == 3 ? 32 : 40>();
    if (threadIdx.x < 32) {
      block.produce(q, k, v);
    } else {
      block.guard();
    }
  } else {
    cuda::take_registers<kConfig.warpgroups == 3 ? 160 : 232>();
    block.consume(warpgroup - 1);
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

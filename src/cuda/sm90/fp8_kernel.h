// Attention of 8-bit Q and K (e4m3 or INT8) and e4m3 V on Hopper's tensor cores.
//
//     producer (one warp): next tile of rows ► Q ► (K, V) (K, V) …      by the copy engine, kStages
//     deep consumers (kWarpgroups × 64 rows), for each tile of keys j:
//         tensor cores   P·V(j-1), part 0 │ Q·K(j)          │ P·V(j-1), part 1 … │
//         other pipes                     │ sum += part 0   │     sum += part 1   │ P(j) from S(j)
//
// - V comes transposed, its keys permuted so that the registers of S, turned into e4m3, are the A
//   operand of P·V: no shuffles. Eight rows of ones below V make the row sums of the rounded P.
// - The tensor cores add e4m3 products with few bits below the largest: a sum over many keys loses
//   what is small against it. With kTwoLevel a tile's P·V goes into fresh registers and is added in
//   fp32 (in kParts along the head, so that few fresh registers are needed).
// - The running maxima move only where a score exceeds one by far: rarely.
#pragma once

#include "cuda/common/wgmma.h"
#include "cuda/sm90/epilogue.h"
#include "cuda/sm90/kernel.h"
#include "cuda/sm90/schedule.h"
#include "cuda/sm90/scores_e4m3.h"
#include "cuda/sm90/scores_int8.h"

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
  static_assert(kConfig.keys % kKeySlice == 0 && kVSliceBytes % 512 == 0 && kKBytes % 1024 == 0);
};

template <Fp8Config kConfig>
class Fp8Block {
  using Layout = Fp8Layout<kConfig>;
  static constexpr int kRows = Layout::kRows, kKeys = kConfig.keys, kStages = kConfig.stages;
  static constexpr int kWarps = 4 * kConfig.warpgroups;
  static constexpr int kOutside = 1 << 30;  // a coordinate beyond any tensor

 public:
  __device__ __forceinline__ Fp8Block(const Params& p, unsigned char* memory)
      : p_(p),
        memory_(memory + (1024 - cuda::shared_address(memory) % 1024) % 1024),
        base_(cuda::shared_address(memory_)) {}

  __device__ __forceinline__ void set_up() {
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) {
        cuda::barrier_init(k_full(s), 1);
        cuda::barrier_init(v_full(s), 1);
        cuda::barrier_init(k_empty(s), kWarps);
        cuda::barrier_init(v_empty(s), kWarps);
      }
      cuda::barrier_init(q_full(), 1);
      cuda::barrier_init(q_empty(), kWarps);
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
      typename Layout::Slot& slot = work_slot(turn++);
      if (tile >= p_.tiles) {
        // The last block to come leaves the counter ready for the next launch.
        if (lane == 0 && tile == p_.tiles + static_cast<int>(gridDim.x) - 1) *p_.next_tile = 0;
        if (lane == 0) {
          slot.work.batch = -1;
          cuda::barrier_arrive(q_full());
        }
        return;
      }
      const int head = work.head / (p_.heads_q / p_.heads_kv);
      const bool packed = p_.cu_seqlens_k != nullptr;
      const int v_slot = packed ? head : work.batch * p_.heads_kv + head;
      const int v_token = packed ? (work.token_k / kBlock + work.batch) * kBlock : 0;
      const KeyRange tiles = tiles_of_rows<kKeys>(p_, work, work.row, work.row + kRows - 1);
      if (lane < kConfig.warpgroups) {
        slot.own[lane] = tiles_of_warpgroup<kKeys>(p_, work, work.row + 64 * lane);
      }
      __syncwarp();
      if (lane == 0) {
        slot.work = work;
        slot.tiles = tiles;
        cuda::barrier_expect(q_full(), Layout::kQBytes);
#pragma unroll
        for (int i = 0; i < Layout::kSlices; ++i) {
          cuda::copy_tile(base_ + Layout::kQ + i * kRows * Layout::kSlice, &q, q_full(),
                          i * Layout::kSlice, work.token_q + work.row, work.head,
                          p_.cu_seqlens_q == nullptr ? work.batch : 0);
        }
      }
      // Lane 0 copies K and V, lanes 1 and 2 bring their scales.
      const ScaleView& view = lane == 1 ? p_.k_scale : p_.v_scale;
      const HeadScales scales = scales_of(view, work.batch, head, work.token_k);
      for (int n = tiles.end - 1; n >= tiles.begin; --n) {
        cuda::barrier_wait(k_empty(stage), phase);
        cuda::barrier_wait(v_empty(stage), phase);
        if (lane == 1 || lane == 2) {
          KeyScales& slot_of_tile = key_scales(stage);
          (lane == 1 ? slot_of_tile.k : slot_of_tile.v) = scale_at(view, scales, n * kKeys);
        }
        __syncwarp();
        if (lane == 0) {
          cuda::barrier_expect(k_full(stage), Layout::kKBytes);
#pragma unroll
          for (int i = 0; i < Layout::kSlices; ++i) {
            cuda::copy_tile(k_at(stage) + i * kKeys * Layout::kSlice, &k, k_full(stage),
                            i * Layout::kSlice, work.token_k + n * kKeys, head,
                            packed ? 0 : work.batch);
          }
          cuda::barrier_expect(v_full(stage), kKeys * kConfig.dim_v);
#pragma unroll
          for (int i = 0; i < Layout::kKeySlices; ++i) {
            // Behind the sequence there may be anything; outside of the tensor there are zeros.
            const int key = n * kKeys + i * Layout::kKeySlice;
            cuda::copy_tile(v_at(stage) + i * Layout::kVSliceBytes, &v, v_full(stage),
                            key < work.len_k ? v_token + key : kOutside, 0, v_slot);
          }
        }
        advance(stage, phase);
      }
    }
  }

  __device__ __forceinline__ void consume(int warpgroup) {
    int stage = 0, phase = 0;
    for (int turn = 0;; ++turn) {
      cuda::barrier_wait(q_full(), turn & 1);
      const typename Layout::Slot& slot = work_slot(turn);
      if (cuda::warp_uniform(slot.work.batch) < 0) return;
      attend(slot, warpgroup, stage, phase);
    }
  }

 private:
  using Scores = std::conditional_t<kConfig.int8, Int8Scores<kKeys>, E4m3Scores<kKeys>>;
  static constexpr int kParts = kConfig.parts;
  static constexpr int kPartColumns = kConfig.dim_v / kParts;
  using Part = cuda::MmaRs<cuda::E4m3ToF32, kPartColumns>;
  using LastPart = cuda::MmaRs<cuda::E4m3ToF32, kPartColumns + Layout::kOnes>;
  static constexpr std::integral_constant<int, kParts - 1> kLastPart{};
  // What the sums of a tile lose by truncation, 32 keys at a time, measured with V's mean at one
  // and three standard deviations.
  static constexpr float kTruncation = 1 + kKeys / 32 * 1.4e-4f;

  // The rows of one warpgroup: the heart of the kernel.
  __device__ __forceinline__ void attend(const typename Layout::Slot& slot, int warpgroup,
                                         int& stage, int& phase) {
    const Work& work = slot.work;
    const int lane = thread_of_warpgroup() & 31;
    // Of the thread; and the one 8 further on. Worked out where it is needed: registers are scarce.
    const auto row = [&] {
      const int thread = thread_of_warpgroup();
      return work.row + 64 * warpgroup + thread / 32 * 16 + thread % 32 / 4;
    };
    const std::uint32_t q = base_ + Layout::kQ + 64 * warpgroup * Layout::kSlice;
    const KeyRange block{cuda::warp_uniform(slot.tiles.begin), cuda::warp_uniform(slot.tiles.end)};
    const OwnTiles& own = slot.own[warpgroup];
    const KeyRange all{cuda::warp_uniform(own.all.begin), cuda::warp_uniform(own.all.end)};
    KeyRange tiles{cuda::warp_uniform(own.some.begin), cuda::warp_uniform(own.some.end)};
    if (tiles.begin >= tiles.end) tiles = {block.begin, block.begin};

    Scores scores;
    // INT8: the rows' units and what |x| cannot exceed in the warp's rows, but for the keys' scale.
    [[maybe_unused]] float q_units[2] = {}, bound = 0;

    typename Scores::Tile s;
    typename Scores::Codes codes;
    // Sums over the tiles before. Without two levels the products add to them, and to the row sums
    // of one tile behind them.
    constexpr int kSums = kConfig.two_level ? kConfig.dim_v / 2 : LastPart::kCount;
    float o[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) o[i] = 0;
    float v_scale = 1;  // of the tile whose P is there; without two levels, the unit of `o`

    const auto issue_scores = [&](int at) {
      constexpr int kSteps = Layout::kSlice / 32;
#pragma unroll
      for (int i = 0; i < kConfig.dim_qk / 32; ++i) {
        const int slice = i / kSteps, step = i % kSteps * 2;
        const std::uint64_t a =
            cuda::matrix_descriptor<Layout::kSlice>(q + slice * kRows * Layout::kSlice) + step;
        const std::uint64_t b =
            cuda::matrix_descriptor<Layout::kSlice>(k_at(at) + slice * kKeys * Layout::kSlice) +
            step;
        if (i == 0) {
          Scores::Mma::start(s, a, b);
        } else {
          Scores::Mma::add(s, a, b);
        }
      }
    };
    // The products of a part of V add to `sum`, or make it.
    const auto issue_part = [&](auto part, auto& sum, int at) {
      constexpr int kPart = decltype(part)::value;
      using Mma = std::conditional_t<kPart == kParts - 1, LastPart, Part>;
#pragma unroll
      for (int i = 0; i < kKeys / 32; ++i) {
        const std::uint32_t rows = v_at(at) + i * 32 / Layout::kKeySlice * Layout::kVSliceBytes +
                                   kPart * kPartColumns * Layout::kKeySlice;
        const std::uint64_t b =
            cuda::matrix_descriptor<Layout::kKeySlice>(rows) + i * 32 % Layout::kKeySlice / 16;
        if (kConfig.two_level && i == 0 && (kPart == 0 || kPart == kParts - 1)) {
          Mma::start(sum, codes + 4 * i, b);
        } else if (kConfig.two_level && i == 0) {
          Mma::restart(sum, codes + 4 * i, b);
        } else {
          Mma::add(sum, codes + 4 * i, b);
        }
      }
    };
    const auto add_part = [&](auto part, auto& sum) {
      constexpr int kFirst = decltype(part)::value * kPartColumns / 2;
#pragma unroll
      for (int i = 0; i < kPartColumns / 2; ++i)
        o[kFirst + i] = fmaf(sum[i], v_scale, o[kFirst + i]);
    };
    // Row sums of one tile. They move out after every tile: beside a large sum the tensor cores
    // would lose P.
    const auto add_row_sums = [&](auto& sum) {
      scores.sum[0] += sum[kPartColumns / 2];
      scores.sum[1] += sum[kPartColumns / 2 + 2];
    };
    const auto issue_last = [&](auto& sum, int at) {
      if constexpr (!kConfig.two_level) cuda::pin(sum);
      cuda::mma_fence();
      issue_part(kLastPart, sum, at);
      cuda::mma_commit();
    };
    const auto finish_last = [&](auto& sum) {
      cuda::mma_wait<0>();
      cuda::pin(sum);
      cuda::pin(codes);
      add_row_sums(sum);
      if constexpr (kConfig.two_level) {
        add_part(kLastPart, sum);
      } else {
#pragma unroll
        for (int i = kPartColumns / 2; i < LastPart::kCount; ++i) {
          // In place: a constant 0 would make ptxas serialise the products (C7511).
          asm volatile("mul.f32 %0, %0, 0f00000000;" : "+f"(sum[i]));
        }
      }
    };
    const auto take_v_scale = [&](int at) {
      const float next = key_scales(at).v * (kConfig.two_level ? kTruncation : 1.0f);
      if (!kConfig.two_level && __builtin_expect(next != v_scale, 0)) {
        const float ratio = v_scale / next;
#pragma unroll
        for (int i = 0; i < kConfig.dim_v / 2; ++i) o[i] *= ratio;
      }
      v_scale = next;
    };
    const auto first_part = std::integral_constant<int, 0>{};
    using Last = float[LastPart::kCount];
    const auto with_last = [&](const auto& use) {
      if constexpr (kConfig.two_level) {
        Last last;
        use(last);
      } else {
        use(o);
      }
    };
    // Whether every tile of keys needs more than the ordinary.
    const bool rare = p_.softcap_log2 > 0 || (!kConfig.int8 && p_.k_scale.step != 0);
    // Of the tile in `stage`: x = S·unit.
    const auto units_here = [&](float(&units)[2]) {
      const float k_scale = key_scales(stage).k;
      if constexpr (kConfig.int8) {
        units[0] = q_units[0] * k_scale;
        units[1] = q_units[1] * k_scale;
      } else {
        q_units_of(work, row(), units);
        units[0] *= k_scale;
        units[1] *= k_scale;
      }
    };
    // True where the maxima must be found anew.
    const auto set_units = [&] {
      float units[2];
      units_here(units);
      if constexpr (kConfig.int8) {
        return scores.set_units(p_, units, bound * key_scales(stage).k);
      } else {
        return scores.set_units(p_, units);
      }
    };
    const auto prepare = [&](int n, bool find, float(&shrink)[2]) {
      if (rare || scores.is_rare()) {
        if (!kConfig.int8 && rare) find |= set_units();
        if (p_.softcap_log2 > 0) {
          float units[2];
          units_here(units);
          cap_scores(work, row(), units, s);
        }
        scores.before(s);
      }
      const bool masked = n * kKeys < all.begin || (n + 1) * kKeys > all.end;
      const auto mask = [&] {
        KeyMask seen;
        const int column = n * kKeys + 2 * (thread_of_warpgroup() & 3), first = row();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int diagonal = first + 8 * r + mask_offset(p_, work);
          seen.begin[r] = first_key(p_, diagonal) - column;
          seen.end[r] = end_key(p_, work, diagonal) - column;
        }
        return seen;
      };
      return scores.prepare(p_, s, find, masked, mask, units_here, shrink);
    };

    skip(block.end - 1, tiles.end - 1, lane, stage, phase);
    if (tiles.begin < tiles.end) {
      float shrink[2];
      cuda::barrier_wait(k_full(stage), phase);
      cuda::mma_fence();
      issue_scores(stage);
      cuda::mma_commit();
      scores.start(p_);
      if constexpr (kConfig.int8) {
        q_units_of(work, row(), q_units);
        bound = bound_of(q, thread_of_warpgroup(), q_units);
      }
      set_units();
      cuda::mma_wait<0>();
      cuda::pin(s);
      release(k_empty(stage), lane);
      if (tiles.end - tiles.begin == 1) release(q_empty(), lane);
      prepare(tiles.end - 1, true, shrink);
      scores.encode(p_, s, codes);

      // S of tile n, P·V of the one before it.
      for (int n = tiles.end - 2; n >= tiles.begin; --n) {
        const int before = stage;
        cuda::barrier_wait(v_full(before), phase);
        take_v_scale(before);
        advance(stage, phase);
        cuda::pin(codes);
        float part[kParts > 1 ? Part::kCount : 1];
        if constexpr (kParts > 1) {
          cuda::mma_fence();
          issue_part(first_part, part, before);
          cuda::mma_commit();
        }
        cuda::barrier_wait(k_full(stage), phase);
        cuda::mma_fence();
        issue_scores(stage);
        cuda::mma_commit();
        bool find_again = false;
        if constexpr (kConfig.int8) find_again = set_units();
        if constexpr (kParts > 1) {
          cuda::mma_wait<1>();
          cuda::pin(part);
          add_part(first_part, part);
          middle_parts(std::make_integer_sequence<int, kParts - 2>{}, part, issue_part, add_part,
                       before);
        }
        with_last([&](auto& last) {
          issue_last(last, before);
          cuda::mma_wait<1>();
          cuda::pin(s);
          release(k_empty(stage), lane);
          if (n == tiles.begin) release(q_empty(), lane);
          const bool moved = prepare(n, find_again, shrink);
          finish_last(last);
          release(v_empty(before), lane);
          if (__builtin_expect(moved, 0)) {
            scores.sum[0] *= shrink[0];
            scores.sum[1] *= shrink[1];
#pragma unroll
            for (int i = 0; i < kConfig.dim_v / 2; ++i) o[i] *= shrink[i >> 1 & 1];
          }
        });
        scores.encode(p_, s, codes);
      }

      // P·V of the last tile.
      cuda::barrier_wait(v_full(stage), phase);
      take_v_scale(stage);
      cuda::pin(codes);
      with_last([&](auto& last) {
        if constexpr (kParts > 1) {
          // All parts in the registers of the last one.
          auto& part = reinterpret_cast<float(&)[Part::kCount]>(last);
          cuda::mma_fence();
          issue_part(first_part, part, stage);
          cuda::mma_commit();
          cuda::mma_wait<0>();
          cuda::pin(part);
          add_part(first_part, part);
          middle_parts(std::make_integer_sequence<int, kParts - 2>{}, part, issue_part, add_part,
                       stage);
        }
        issue_last(last, stage);
        finish_last(last);
      });
      release(v_empty(stage), lane);
      advance(stage, phase);
      if constexpr (!kConfig.two_level) {
#pragma unroll
        for (int i = 0; i < kConfig.dim_v / 2; ++i) o[i] *= v_scale;
      }
    } else {
      scores.start(p_);
      release(q_empty(), lane);
    }
    skip(tiles.begin - 1, block.begin - 1, lane, stage, phase);

    float factor[2];
    const int first = row();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float total = scores.sum[r];
      factor[r] = finish_row(p_, work, first + 8 * r, (lane & 3) == 0 && first + 8 * r < work.rows,
                             scores.log2_sum(p_, r, total), total);
    }
    store_rows<kConfig.dim_v>(p_, work, first, lane, o, factor, scores.sum);
  }

  // Tiles from ... down to `to` + 1, that only other warpgroups of the block need.
  __device__ __forceinline__ void skip(int from, int to, int lane, int& stage, int& phase) const {
    for (int n = from; n > to; --n) {
      cuda::barrier_wait(k_full(stage), phase);
      cuda::barrier_wait(v_full(stage), phase);
      __syncwarp();
      release(k_empty(stage), lane);
      release(v_empty(stage), lane);
      advance(stage, phase);
    }
  }

  template <int... kPart, class Sum, class Issue, class Add>
  static __device__ __forceinline__ void middle_parts(std::integer_sequence<int, kPart...>,
                                                      Sum& sum, const Issue& issue, const Add& add,
                                                      int at) {
    const auto one = [&](auto part) {
      cuda::mma_fence();
      issue(part, sum, at);
      cuda::mma_commit();
      cuda::mma_wait<0>();
      cuda::pin(sum);
      add(part, sum);
    };
    (one(std::integral_constant<int, kPart + 1>{}), ...);
  }

  // q_scale · scale · log2 e of the thread's two rows.
  __device__ __forceinline__ void q_units_of(const Work& work, int row, float (&units)[2]) const {
    const HeadScales scales = scales_of(p_.q_scale, work.batch, work.head, work.token_q);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      units[r] = scale_at(p_.q_scale, scales, min(row + 8 * r, work.rows - 1)) * p_.scale_log2;
    }
  }

  __device__ __forceinline__ void cap_scores(const Work& work, int row, const float (&units)[2],
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
    Scores::cap(p_, s, units, bias);
  }

  // The largest |q|·127·sqrt(dim)·q_unit of the warp's rows of INT8 Q, which no |S|·q_unit exceeds;
  // NaN where a unit is NaN or negative. Each of a row's four threads squares a quarter.
  __device__ __forceinline__ float bound_of(std::uint32_t q, int thread,
                                            const float (&q_units)[2]) const {
    float bound = 0;
    bool known = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * r;
      int sum = 0;
#pragma unroll
      for (int i = 0; i < kConfig.dim_qk / 16; ++i) {
        // Order within a row does not matter, so neither does the swizzle.
        const int byte = (i * 4 + (thread & 3)) * 4;
        const std::uint32_t at = q + byte / Layout::kSlice * kRows * Layout::kSlice +
                                 row * Layout::kSlice + byte % Layout::kSlice;
        int four;
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(four) : "r"(at));
        sum = __dp4a(four, four, sum);
      }
      bound = fmaxf(bound, sqrtf(static_cast<float>(row_sum(sum)) * kConfig.dim_qk) * 127.0f *
                               q_units[r]);
      known &= q_units[r] >= 0;
    }
    // Floats that are not negative are ordered as their bits.
    bound = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(bound)));
    return __all_sync(~0u, known) ? bound : NAN;
  }

  static __device__ __forceinline__ void advance(int& stage, int& phase) {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
  static __device__ __forceinline__ int thread_of_warpgroup() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread & 127;
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
  __device__ __forceinline__ std::uint32_t q_full() const { return barrier(4 * kStages); }
  __device__ __forceinline__ std::uint32_t q_empty() const { return barrier(4 * kStages + 1); }

  __device__ __forceinline__ std::uint32_t& word(int offset) const {
    return *reinterpret_cast<std::uint32_t*>(memory_ + offset);
  }
  __device__ __forceinline__ typename Layout::Slot& work_slot(int turn) const {
    return reinterpret_cast<typename Layout::Slot*>(memory_ + Layout::kWork)[turn & 1];
  }
  __device__ __forceinline__ KeyScales& key_scales(int s) const {
    return reinterpret_cast<KeyScales*>(memory_ + Layout::kScales)[s];
  }

  const Params& p_;
  unsigned char* memory_;
  std::uint32_t base_;
};

// Instance has the configuration as kConfig (nvcc takes no such value as a kernel's parameter).
template <class Instance>
__global__ void __launch_bounds__(Fp8Layout<Instance::kConfig>::kThreads, 1)
    fp8_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
               const __grid_constant__ CUtensorMap v, const __grid_constant__ Params params) {
  extern __shared__ unsigned char memory[];
  constexpr Fp8Config kConfig = Instance::kConfig;
  Fp8Block<kConfig> block(params, memory);
  block.set_up();
  cuda::wait_for_prior_kernel();
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    cuda::give_registers<kConfig.warpgroups == 3 ? 32 : 40>();
    if (threadIdx.x < 32) block.produce(q, k, v);
  } else {
    cuda::take_registers<kConfig.warpgroups == 3 ? 160 : 232>();
    block.consume(warpgroup - 1);
  }
}

template <class Instance>
Kernel<Fp8Config> fp8_instance() {
  using Layout = Fp8Layout<Instance::kConfig>;
  return {Instance::kConfig, reinterpret_cast<const void*>(&fp8_kernel<Instance>),
          Layout::kRows,     Layout::kThreads,
          Layout::kTotal,    Layout::kSlice,
          Layout::kSlice,    Layout::kKeySlice};
}

}  // namespace sotto::sm90

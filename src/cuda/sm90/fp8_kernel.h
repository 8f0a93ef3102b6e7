// Attention of 8-bit Q and K (e4m3 or INT8) and e4m3 V on Hopper's tensor cores.
//
//     producer (one warp): next tile of rows ► Q ► (K, V) (K, V) …  by the copy engine
//
//     consumers (warpgroups of 64 rows), for each tile of keys j:
//         tensor cores   P·V(j-1), part 0 │ Q·K(j)        │ P·V(j-1), part 1 … │
//         other pipes                     │ sum += part 0 │ sum += part 1      │ P(j) from S(j)
//
// - V comes transposed, its keys permuted so that the registers of S, turned into e4m3, are the A
//   operand of P·V: no shuffles. Eight rows of ones below V make the row sums of the rounded P.
// - The tensor cores add e4m3 products with few bits below the largest: a sum over many keys loses
//   what is small against it. With kTwoLevel a tile's P·V goes into fresh registers and is added in
//   fp32 (in kParts along the head, so that few fresh registers are needed).
// - The running maxima move only where a score exceeds one by far: rarely.
#pragma once

#include "cuda/common/wgmma.h"
#include "cuda/sm90/bad_keys.h"
#include "cuda/sm90/epilogue.h"
#include "cuda/sm90/fp8_producer.h"
#include "cuda/sm90/ring.h"
#include "cuda/sm90/scores_e4m3.h"
#include "cuda/sm90/scores_int8.h"

namespace sotto::sm90 {

template <Fp8Config kConfig>
class Fp8Consumer {
  using Layout = Fp8Layout<kConfig>;
  static constexpr int kRows = Layout::kRows, kKeys = kConfig.keys;

 public:
  __device__ __forceinline__ Fp8Consumer(const Params& p, const Fp8Memory<kConfig>& memory)
      : p_(p), memory_(memory) {}

  __device__ __forceinline__ void consume(int warpgroup) {
    int stage = 0, phase = 0;
    for (int turn = 0;; ++turn) {
      cuda::barrier_wait(memory_.q_full(), turn & 1);
      const typename Layout::Slot& slot = memory_.work_slot(turn);
      if (cuda::warp_uniform(slot.work.batch) < 0) return;
      attend(slot, warpgroup, stage, phase);
    }
  }

 private:
  using Scores = std::conditional_t<kConfig.int8, Int8Scores<kKeys, kConfig.fast>,
                                    E4m3Scores<kKeys, kConfig.fast>>;
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
    const std::uint32_t q = memory_.q_at() + 64 * warpgroup * Layout::kSlice;
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
    float v_scale = 0;  // of the tile whose P is there; without two levels, the unit of `o`

    const auto issue_scores = [&](int at) {
      constexpr int kSteps = Layout::kSlice / 32;
#pragma unroll
      for (int i = 0; i < kConfig.dim_qk / 32; ++i) {
        const int slice = i / kSteps, step = i % kSteps * 2;
        const std::uint64_t a =
            cuda::matrix_descriptor<Layout::kSlice>(q + slice * kRows * Layout::kSlice) + step;
        const std::uint64_t b = cuda::matrix_descriptor<Layout::kSlice>(
                                    memory_.k_at(at) + slice * kKeys * Layout::kSlice) +
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
        const std::uint32_t rows = memory_.v_at(at) +
                                   i * 32 / Layout::kKeySlice * Layout::kVSliceBytes +
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
      float next = memory_.key_scales(at).v * (kConfig.two_level ? kTruncation : 1.0f);
      if (!kConfig.two_level && __builtin_expect(next != v_scale, 0)) {
        // Beside what was summed, a tile with a smaller scale counts as good as nothing.
        const float least = 1e-20f * fabsf(v_scale);
        if (fabsf(next) < least) next = least;
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
      const float k_scale = memory_.key_scales(stage).k;
      if constexpr (kConfig.int8) {
        units[0] = q_units[0] * k_scale;
        units[1] = q_units[1] * k_scale;
      } else {
        q_units_of(work, row(), units);
#pragma unroll
        for (float& unit : units) {
          unit *= k_scale;
          // A half; a NaN stays.
          if (fabsf(unit) > Scores::kLargestUnit) unit = copysignf(Scores::kLargestUnit, unit);
        }
      }
    };
    // True where the maxima must be found anew.
    const auto set_units = [&] {
      float units[2];
      units_here(units);
      if constexpr (kConfig.int8) {
        return scores.set_units(p_, units, bound * memory_.key_scales(stage).k);
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
        const int key = n * kKeys + 2 * (thread_of_warpgroup() & 3);
        return mask_of_rows(p_, work, row(), key);
      };
      return scores.prepare(p_, s, find, masked, mask, units_here, shrink);
    };

    skip(block.end - 1, tiles.end - 1, lane, stage, phase);
    if (tiles.begin < tiles.end) {
      float shrink[2];
      cuda::barrier_wait(memory_.k_full(stage), phase);
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
      release(memory_.k_empty(stage), lane);
      if (tiles.end - tiles.begin == 1) release(memory_.q_empty(), lane);
      prepare(tiles.end - 1, true, shrink);
      scores.encode(s, codes);

      // S of tile n, P·V of the one before it.
      for (int n = tiles.end - 2; n >= tiles.begin; --n) {
        const int before = stage;
        cuda::barrier_wait(memory_.v_full(before), phase);
        take_v_scale(before);
        advance<kConfig.stages>(stage, phase);
        cuda::pin(codes);
        float part[kParts > 1 ? Part::kCount : 1];
        if constexpr (kParts > 1) {
          cuda::mma_fence();
          issue_part(first_part, part, before);
          cuda::mma_commit();
        }
        cuda::barrier_wait(memory_.k_full(stage), phase);
        cuda::mma_fence();
        issue_scores(stage);
        cuda::mma_commit();
        if constexpr (kParts > 1) {
          cuda::mma_wait<1>();
          cuda::pin(part);
          add_part(first_part, part);
          middle_parts(std::make_integer_sequence<int, kParts - 2>{}, part, issue_part, add_part,
                       before);
        }
        with_last([&](auto& last) {
          issue_last(last, before);
          bool find_again = false;
          if constexpr (kConfig.int8) find_again = set_units();
          cuda::mma_wait<1>();
          cuda::pin(s);
          release(memory_.k_empty(stage), lane);
          if (n == tiles.begin) release(memory_.q_empty(), lane);
          const bool moved = prepare(n, find_again, shrink);
          finish_last(last);
          release(memory_.v_empty(before), lane);
          if (__builtin_expect(moved, 0)) {
            scores.sum[0] *= shrink[0];
            scores.sum[1] *= shrink[1];
#pragma unroll
            for (int i = 0; i < kConfig.dim_v / 2; ++i) o[i] *= shrink[i >> 1 & 1];
          }
        });
        scores.encode(s, codes);
      }

      // P·V of the last tile.
      cuda::barrier_wait(memory_.v_full(stage), phase);
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
      release(memory_.v_empty(stage), lane);
      advance<kConfig.stages>(stage, phase);
      if constexpr (!kConfig.two_level) {
#pragma unroll
        for (int i = 0; i < kConfig.dim_v / 2; ++i) o[i] *= v_scale;
      }
    } else {
      scores.start(p_);
      release(memory_.q_empty(), lane);
    }
    skip(tiles.begin - 1, block.begin - 1, lane, stage, phase);

    float factor[2];
    const int first = row();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float total = scores.sum[r];
      factor[r] = finish_row(p_, work, first + 8 * r, (lane & 3) == 0 && first + 8 * r < work.rows,
                             scores.log2_sum(r, total), total);
    }
    if (cuda::warp_uniform(slot.bad_keys)) spoil_rows(p_, work, first, lane, factor);
    store_rows<kConfig.dim_v>(p_, work, first, lane, o, factor, scores.sum);
  }

  // Tiles from ... down to `to` + 1, that only other warpgroups of the block need.
  __device__ __forceinline__ void skip(int from, int to, int lane, int& stage, int& phase) const {
    for (int n = from; n > to; --n) {
      cuda::barrier_wait(memory_.k_full(stage), phase);
      cuda::barrier_wait(memory_.v_full(stage), phase);
      __syncwarp();
      release(memory_.k_empty(stage), lane);
      release(memory_.v_empty(stage), lane);
      advance<kConfig.stages>(stage, phase);
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

  // q_scale · scale · log2 e of the thread's two rows; 0 for rows that do not count, whose contents
  // must not decide the way that the others go.
  __device__ __forceinline__ void q_units_of(const Work& work, int row, float (&units)[2]) const {
    const HeadScales scales = scales_of(p_.q_scale, work.batch, work.head, work.token_q);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      units[r] = row + 8 * r < work.len_q
                     ? scale_at(p_.q_scale, scales, row + 8 * r) * p_.scale_log2
                     : 0.0f;
    }
  }

  __device__ __forceinline__ void cap_scores(const Work& work, int row, const float (&units)[2],
                                             typename Scores::Tile& s) const {
    float bias[2] = {0, 0};
    if (p_.row_bias.data != nullptr) {  // bias_of_row() for both would cost registers
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
      bound = fmaxf(bound,
                    sqrtf(static_cast<float>(row_sum(sum)) * kConfig.dim_qk) * 127.0f * q_units[r]);
      known &= q_units[r] >= 0;
    }
    // Floats that are not negative are ordered as their bits.
    bound = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(bound)));
    return __all_sync(~0u, known) ? bound : NAN;
  }

  static __device__ __forceinline__ int thread_of_warpgroup() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread & 127;
  }

  const Params& p_;
  const Fp8Memory<kConfig>& memory_;
};

// Instance has the configuration as kConfig (nvcc takes no such value as a kernel's parameter).
template <class Instance>
__global__ void __launch_bounds__(Fp8Layout<Instance::kConfig>::kThreads, 1)
    fp8_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
               const __grid_constant__ CUtensorMap v, const __grid_constant__ Params params) {
  extern __shared__ unsigned char memory[];
  constexpr Fp8Config kConfig = Instance::kConfig;
  const Fp8Memory<kConfig> shared(memory);
  shared.set_up();
  cuda::wait_for_prior_kernel();
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  // INT8 scores and 256 sums a row take all there is.
  constexpr bool kMany = kConfig.int8 && kConfig.dim_v == 256;
  if (warpgroup == 0) {
    cuda::give_registers<kConfig.warpgroups == 3 ? 32 : kMany ? 24 : 40>();
    if (threadIdx.x < 32) produce(params, shared, q, k, v);
  } else {
    cuda::take_registers<kConfig.warpgroups == 3 ? 160 : kMany ? 240 : 232>();
    Fp8Consumer<kConfig>(params, shared).consume(warpgroup - 1);
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

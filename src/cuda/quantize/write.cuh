// The kernel that writes the codes of Q, K and V: one persistent block per multiprocessor, each
// group of threads taking a contiguous share of the tiles, those of the same tokens together.
// Codes of Q and K leave straight from registers, V's through shared memory, where they are
// transposed.
#pragma once

#include "cuda/quantize/round.cuh"
#include "cuda/quantize/rows.cuh"
#include "cuda/quantize/write_work.cuh"

namespace sotto::cuda {

template <int kWidth, class Element, class Features>
class TileWriter {
  using G = Group<kWidth>;

 public:
  static constexpr int kStages = kWidth == 256 ? 2 : 4;
  using List = WorkList<kWidth, WriteWork>;
  struct Storage {
    typename TileRing<kWidth, Element, Features, kStages>::Storage ring;
    uint4 transposed[kWidth * kTileTokens / 16];  // V's codes: rows of 128 keys
    typename List::Storage list;
    std::uint32_t largest[2][G::kWarps];
    std::uint32_t bad_keys[kTileTokens / 32];  // of V's tile; 0 between tiles
  };

  __device__ TileWriter(const QkvParams& params, Storage& storage)
      : params_(params), storage_(storage), ring_(params, storage.ring), rows_(params) {
    const int thread = G::here().thread;
    if (thread < kTileTokens / 32) storage.bad_keys[thread] = 0;
  }

  __device__ __forceinline__ void run(const WriteWork& work) {
    List list(work, storage_.list);
    ring_.for_each(list, [&](const WorkItem& item) { write(G::here(), item); });
  }

 private:
  __device__ __forceinline__ void write(const G& group, const WorkItem& item) {
    if (item.operand == Operand::v) {
      write_v(group, item);
    } else if (!Features::int8(params_)) {
      write_e4m3(group, item);
    } else if (item.operand == Operand::q) {
      write_int8_q(group, item);
    } else {
      write_int8_k(group, item);
    }
  }

  // A scale per head, which is known.
  __device__ __forceinline__ void write_e4m3(const G& group, const WorkItem& item) {
    const bool query = item.operand == Operand::q;
    const float factor = of(item).normalize * reciprocal_of(item.scale);
#pragma unroll 1
    for (int pass = 0; pass < G::kPasses; ++pass) {
      RowPart x;
      if (query) {
        write_row_bias(group, item, pass, rows_.q(ring_, group, item, pass, x));
      } else {
        rows_.k(ring_, group, item, pass, x);
      }
      CodePart codes;
      round_e4m3(x, factor, codes);
      limit_infinities(codes, query ? kQLimit : params_.k_limit);
      store_row(group, item, pass, codes);
    }
  }

  // A scale per token.
  __device__ __forceinline__ void write_int8_q(const G& group, const WorkItem& item) {
    const float normalize = of(item).normalize;
#pragma unroll 1
    for (int pass = 0; pass < G::kPasses; ++pass) {
      RowPart x;
      write_row_bias(group, item, pass, rows_.q(ring_, group, item, pass, x));
      float largest = row_max<kWidth>(magnitude(x));
      const bool finite = __all_sync(~0u, is_finite(largest));
      if (!finite) largest = row_max<kWidth>(finite_magnitude(x));
      const float scale = scale_of(largest * normalize, kInt8Largest);
      if (group.leads_row() && group.token(pass) < item.rows) {
        item.scales[group.token(pass)] = scale;
      }
      store_int8(group, item, pass, normalize * reciprocal_of(scale), finite, x);
    }
  }

  // A scale per tile.
  __device__ __forceinline__ void write_int8_k(const G& group, const WorkItem& item) {
    const float normalize = of(item).normalize;
    RowPart x;
    bool finite = false;
    const float largest = tile_max(
        group, [&](int pass) { rows_.k(ring_, group, item, pass, x); }, x, finite);
    const float scale = scale_of(largest * normalize, kInt8Largest);
    if (group.thread == 0) *item.scales = scale;
#pragma unroll 1
    for (int pass = 0; pass < G::kPasses; ++pass) {
      if (G::kPasses > 1) rows_.k(ring_, group, item, pass, x);
      store_int8(group, item, pass, normalize * reciprocal_of(scale), finite, x);
    }
  }

  // A power of two per tile, or a scale per head, which is known.
  __device__ __forceinline__ void write_v(const G& group, const WorkItem& item) {
    const float normalize = of(item).normalize;
    RowPart x;
    float scale = item.scale;
    bool finite = false;
    if (params_.v_block_scale) {
      const float largest = tile_max(
          group, [&](int pass) { rows_.v(ring_, group, item, pass, x); }, x, finite);
      scale = round_up_to_power_of_two(scale_of(largest * normalize, kE4m3Largest));
      if (group.thread == 0) *item.scales = scale;
    } else {
      G::sync();  // everybody has left the tile before; tile_max() sees to that, too
    }
#pragma unroll 1
    for (int pass = 0; pass < G::kPasses; ++pass) {
      if (G::kPasses > 1 || !params_.v_block_scale) rows_.v(ring_, group, item, pass, x);
      CodePart codes;
      if (params_.v_block_scale) {
        round_e4m3(x, normalize * reciprocal_of(scale), codes);  // powers of two: exact
      } else {
        if (of(item).hadamard > 0) scale_row(x, normalize);
        round_e4m3_exactly(x, scale, codes);
      }
      if (!finite) take_out_nan(group, pass, codes);
      transpose(group, pass, codes);
    }
    store_transposed(group, item, scale);
  }

  // The largest finite magnitude of a tile, whose rows read(pass) puts into x; `finite` where there
  // is nothing else. Where a thread has one row, x still holds it; more do not fit in registers,
  // and `finite` may be false then anyway.
  template <class Read>
  __device__ __forceinline__ float tile_max(const G& group, Read&& read, const RowPart& x,
                                            bool& finite) {
    if constexpr (G::kPasses == 1) {
      read(0);
      float largest = group_max(group, magnitude(x));
      finite = is_finite(largest);
      if (!finite) largest = group_max(group, finite_magnitude(x));
      return largest;
    }
    float largest = 0.0f;
#pragma unroll 1
    for (int pass = 0; pass < G::kPasses; ++pass) {
      read(pass);
      largest = fmaxf(largest, finite_magnitude(x));
    }
    finite = false;
    return group_max(group, largest);
  }

  // Over the group; NaN where one came in.
  __device__ __forceinline__ float group_max(const G& group, float x) {
    const std::uint32_t largest = __reduce_max_sync(~0u, __float_as_uint(x));
    std::uint32_t* all = storage_.largest[parity_];
    parity_ ^= 1;
    if (group.thread % 32 == 0) all[group.warp()] = largest;
    G::sync();
    return __uint_as_float(__reduce_max_sync(~0u, all[group.thread % G::kWarps]));
  }

  __device__ __forceinline__ void write_row_bias(const G& group, const WorkItem& item, int pass,
                                                 float dot) const {
    if (item.row_bias == nullptr) return;
    if (!group.leads_row() || group.token(pass) >= item.used) return;
    const float normalize = of(item).normalize;  // both factors are transformed
    item.row_bias[group.token(pass)] = params_.scale * dot * normalize * normalize;
  }

  __device__ __forceinline__ void store_int8(const G& group, const WorkItem& item, int pass,
                                             float factor, bool finite, RowPart& x) const {
    CodePart codes;
    if (finite) {
      round_int8(x, factor, codes);
    } else {
      make_finite(x, __fdividef(kInt8Largest, factor));
      round_int8(x, factor, codes);
    }
    store_row(group, item, pass, codes);
  }

  __device__ __forceinline__ void store_row(const G& group, const WorkItem& item, int pass,
                                            const CodePart& codes) const {
    const int token = group.token(pass), dim = Features::kFullRows ? kWidth : of(item).dim;
    if (token >= item.rows) return;
    std::uint8_t* row = item.codes + token * dim;
    __builtin_assume(__isGlobal(row));
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const int channel = group.channel(j);
      if (channel >= dim) continue;
      *reinterpret_cast<uint2*>(row + channel) = make_uint2(codes[2 * j], codes[2 * j + 1]);
    }
  }

  // --- V ----------------------------------------------------------------------------------------

  __device__ static __forceinline__ void scale_row(RowPart& x, float factor) {
#pragma unroll
    for (float& value : x) value *= factor;
  }

  // See qkv.h.
  __device__ __forceinline__ void take_out_nan(const G& group, int pass, CodePart& codes) {
    std::uint32_t found = 0;
#pragma unroll
    for (const std::uint32_t word : codes) found |= nan_bits(word);
    if (found == 0) return;
#pragma unroll
    for (std::uint32_t& word : codes) word = without_nan(word);
    const int token = group.token(pass);
    atomicOr(&storage_.bad_keys[token / 32], 1u << token % 32);
  }

  // Where 16 bytes of a channel's row lie, so that no two lanes of a warp meet in a bank.
  __device__ static __forceinline__ int swizzled(int channel, int sixteenth) {
    return sixteenth ^ (((channel >> 3) ^ (channel >> 4)) & 7);
  }

  // Inside each 16 keys, place 4t+2b+e takes key 8b+2t+e: neighbouring keys stay neighbours. Lanes
  // of two such exchange half of their channels and store pairs.
  __device__ __forceinline__ void transpose(const G& group, int pass, const CodePart& codes) {
    constexpr int kHalf = kChannelsPerLane / 8;  // words
    const int token = group.token(pass);
    const bool odd = token & 1;
    auto* bytes = reinterpret_cast<std::uint8_t*>(storage_.transposed);
    const int place = (token / 2 % 4) * 4 + (token / 8 % 2) * 2;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const std::uint32_t low = codes[i], high = codes[kHalf + i];
      const std::uint32_t kept = odd ? high : low;
      const std::uint32_t got = __shfl_xor_sync(~0u, odd ? low : high, G::kLanes);
      const std::uint32_t even_key = odd ? got : kept, odd_key = odd ? kept : got;
      const std::uint32_t pairs[2] = {__byte_perm(even_key, odd_key, 0x5140),
                                      __byte_perm(even_key, odd_key, 0x7362)};
      // Four channels of a chunk: their 16 bytes lie alike.
      const int first = group.channel(i / 2 + (odd ? kChunks / 2 : 0)) + i % 2 * 4;
      std::uint8_t* to = bytes + first * kTileTokens + swizzled(first, token / 16) * 16 + place;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        *reinterpret_cast<std::uint16_t*>(to + k * kTileTokens) =
            static_cast<std::uint16_t>(pairs[k / 2] >> (k % 2 * 16));
      }
    }
  }

  __device__ __forceinline__ void store_transposed(const G& group, const WorkItem& item,
                                                   float scale) {
    constexpr int kSixteenths = kTileTokens / 16;
    G::sync();
    if (group.thread < kTileTokens / 32) {
      item.bad_keys[group.thread] = storage_.bad_keys[group.thread];
      storage_.bad_keys[group.thread] = 0;
    }
    const int dim = Features::kFullRows ? kWidth : of(item).dim;
    const std::int64_t pitch = WriteWork::v_pitch(params_);
    std::uint8_t* out = item.codes;
    __builtin_assume(__isGlobal(out));
#pragma unroll
    for (int i = 0; i < kWidth * kSixteenths / G::kThreads; ++i) {
      const int at = i * G::kThreads + group.thread;
      const int channel = at / kSixteenths, sixteenth = at % kSixteenths;
      if (channel >= dim) break;
      *reinterpret_cast<uint4*>(out + channel * pitch + sixteenth * 16) =
          storage_.transposed[channel * kSixteenths + swizzled(channel, sixteenth)];
    }
    if (params_.v_code_sums != nullptr) add_codes(group, item, scale);
  }

  // The sum of the tile's rounded values per channel.
  __device__ __forceinline__ void add_codes(const G& group, const WorkItem& item, float scale) {
    constexpr int kSharers = G::kThreads / kWidth;
    const int channel = group.thread / kSharers;
    const auto* row =
        reinterpret_cast<const std::uint16_t*>(storage_.transposed) + channel * kTileTokens / 2;
    float sum = 0.0f;
    for (int i = group.thread % kSharers; i < kTileTokens / 2; i += kSharers) {
      std::uint32_t halves;
      asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(row[i]));
      const float2 both = __half22float2(reinterpret_cast<const __half2&>(halves));
      sum += both.x + both.y;
    }
    for (int lanes = 1; lanes < kSharers; lanes *= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    const OperandParams& v = of(item);
    if (group.thread % kSharers != 0 || channel >= v.dim) return;
    params_.v_code_sums[(static_cast<std::int64_t>(item.slot) * v.heads + item.head) * v.dim +
                        channel] = sum * scale;
  }

  __device__ __forceinline__ const OperandParams& of(const WorkItem& item) const {
    return params_.operands[static_cast<int>(item.operand)];
  }

  static constexpr std::uint32_t kQLimit = 0x56;  // 14

  const QkvParams& params_;
  Storage& storage_;
  TileRing<kWidth, Element, Features, kStages> ring_;
  RowReader<kWidth, Element, Features, kStages> rows_;
  int parity_ = 0;
};

template <int kWidth, class Element, class Features>
struct WriteStorage {
  typename TileWriter<kWidth, Element, Features>::Storage groups[Group<kWidth>::kGroups];
};

template <int kWidth, class Element, class Features>
__global__ void __launch_bounds__(Group<kWidth>::kBlockThreads, 1)
    write_kernel(const __grid_constant__ QkvParams params) {
  using G = Group<kWidth>;
  extern __shared__ uint4 shared_memory[];
  auto& storage = reinterpret_cast<WriteStorage<kWidth, Element, Features>&>(shared_memory);
  begin_kernel(params);
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0 && params.tile_counter != nullptr) *params.tile_counter = 0;
    if (params.cu_blocks != nullptr) {
      for (int b = threadIdx.x; b <= params.keys.batch; b += G::kBlockThreads) {
        params.cu_blocks[b] = first_slot(params.keys, b);
      }
    }
  }
  const WriteWork work(params, blockIdx.x * G::kGroups + G::index(), gridDim.x * G::kGroups);
  TileWriter<kWidth, Element, Features>(params, storage.groups[G::index()]).run(work);
  wait_for_prior_kernel();  // whoever waits for this kernel may count on that one's end
}

}  // namespace sotto::cuda

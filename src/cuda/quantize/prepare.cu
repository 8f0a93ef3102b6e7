#include "cuda/quantize/prepare.h"

#include <algorithm>
#include <string>

#include "core/geometry.h"
#include "cuda/common/ptx.h"
#include "cuda/launch.h"
#include "cuda/quantize/arena.h"
#include "cuda/quantize/round.cuh"
#include "cuda/quantize/scale_view.cuh"
#include "cuda/quantize/sequences.cuh"
#include "cuda/quantize/token_sides.h"

namespace sotto::cuda {
namespace {

constexpr float kLargestSum = 57344.0f;  // of products in f16
constexpr int kMostChannels = 256;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// An 8-bit tensor of rows.
struct ByteRows {
  const std::uint8_t* data = nullptr;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
  int heads = 0, dim = 0;
  bool aligned = false;  // every row begins at a multiple of 16 bytes

  __device__ const std::uint8_t* row(const TokenTile& tile, int head, int token) const {
    return data + tile.batch * batch_stride + (tile.row + token) * token_stride +
           head * head_stride;
  }
};

struct PrepareParams {
  ByteRows q, k, v;
  TokenSide queries, keys;
  ScaleView q_scale;
  bool e4m3_qk = false;
  std::uint8_t* q_out = nullptr;  // [batch, heads, len, dim] or [heads, total, dim]
  float* q_scale_out = nullptr;   // [batch, heads, len] or [heads, total]
  std::uint8_t* k_out = nullptr;  // null: K stays where it is
  float* k_norms = nullptr;       // [slots, heads_kv]: the largest |k|² of a tile
  std::uint8_t* v_out = nullptr;
  std::uint32_t* bad_keys = nullptr;  // see qkv.h
  std::uint32_t* tile_counter = nullptr;
};

// Four neighbouring bytes of a row.
__device__ __forceinline__ std::uint32_t load_word(const std::uint8_t* row, int word,
                                                   bool aligned) {
  if (aligned) return reinterpret_cast<const std::uint32_t*>(row)[word];
  const std::uint8_t* bytes = row + 4 * word;
  return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<std::uint32_t>(bytes[3]) << 24;
}

__device__ __forceinline__ float2 decode_pair(std::uint32_t codes) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(codes)));
  return __half22float2(reinterpret_cast<const __half2&>(halves));
}

// Σx² of four codes; NaN counts as 0, for its products are NaN whatever is done.
__device__ __forceinline__ float square_sum(std::uint32_t codes) {
  const float2 low = decode_pair(codes), high = decode_pair(codes >> 16);
  float sum = 0.0f;
  const float values[] = {low.x, low.y, high.x, high.y};
#pragma unroll
  for (const float x : values) {
    if (x == x) sum = __fmaf_rn(x, x, sum);
  }
  return sum;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

// Of numbers that are not negative, over the block.
__device__ float block_max(float x) {
  __shared__ std::uint32_t largest[kWarps];
  const std::uint32_t of_warp = __reduce_max_sync(~0u, __float_as_uint(x));
  __syncthreads();  // an earlier call has been read
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = of_warp;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, largest[threadIdx.x % kWarps]));
}

__device__ std::int64_t head_row(const TokenSide& side, int heads, int batch, int head) {
  return side.cu_seqlens == nullptr ? static_cast<std::int64_t>(batch) * heads + head : head;
}

// The tile's V, transposed, permuted and without NaN, and its keys that had one.
__device__ void transpose_v(const PrepareParams& p, const TokenTile& tile, int slot, int head) {
  constexpr int kPitch = kMostChannels + 4;  // so that columns lie in different banks
  constexpr int kRun = 32;                   // keys that a thread takes: a sector of the output
  __shared__ __align__(16) std::uint8_t rows[kTileTokens * kPitch];
  __shared__ std::uint32_t bad_keys[kTileTokens / 32];
  if (threadIdx.x < kTileTokens / 32) bad_keys[threadIdx.x] = 0;
  __syncthreads();
  const int words = p.v.dim / 4;
  for (int i = threadIdx.x; i < kTileTokens * words; i += kThreads) {
    const int token = i / words, word = i % words;
    std::uint32_t codes =
        token < tile.used ? load_word(p.v.row(tile, head, token), word, p.v.aligned) : 0;
    if (nan_bits(codes) != 0) {
      codes = without_nan(codes);
      atomicOr(&bad_keys[token / 32], 1u << token % 32);
    }
    *reinterpret_cast<std::uint32_t*>(rows + token * kPitch + 4 * word) = codes;
  }
  __syncthreads();
  const bool packed = p.keys.cu_seqlens != nullptr;
  const std::int64_t pitch =
      static_cast<std::int64_t>(packed ? p.keys.slots : p.keys.tiles) * kTileTokens;
  const std::int64_t first =
      static_cast<std::int64_t>(packed ? slot : slot % p.keys.tiles) * kTileTokens;
  const std::int64_t row = head_row(p.keys, p.v.heads, tile.batch, head);
  if (threadIdx.x < kTileTokens / 32) {
    p.bad_keys[(row * pitch + first) / 32 + threadIdx.x] = bad_keys[threadIdx.x];
  }
  std::uint8_t* out = p.v_out + row * p.v.dim * pitch + first;
  for (int i = threadIdx.x; i < p.v.dim * (kTileTokens / kRun); i += kThreads) {
    const int channel = i % p.v.dim, run = i / p.v.dim;
    uint4 sixteens[kRun / 16];
    auto* words_out = reinterpret_cast<std::uint32_t*>(sixteens);
#pragma unroll
    for (int w = 0; w < kRun / 4; ++w) {
      // Places 4t … 4t+3 of 16 hold keys 2t, 2t+1, 8+2t, 9+2t.
      const std::uint8_t* from = rows + (run * kRun + w / 4 * 16 + w % 4 * 2) * kPitch + channel;
      words_out[w] = from[0] | from[kPitch] << 8 | from[8 * kPitch] << 16 |
                     static_cast<std::uint32_t>(from[9 * kPitch]) << 24;
    }
    auto* to = reinterpret_cast<uint4*>(out + channel * pitch + run * kRun);
    to[0] = sixteens[0];
    to[1] = sixteens[1];
  }
}

// The largest |k|² of the tile, and a copy of it where K cannot stay.
__device__ void look_at_k(const PrepareParams& p, const TokenTile& tile, int slot, int head) {
  float largest = 0.0f;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int token = static_cast<int>(threadIdx.x) / 32; token < tile.used; token += kWarps) {
    const std::uint8_t* row = p.k.row(tile, head, token);
    float squares = 0.0f;
    for (int word = lane; word < p.k.dim / 4; word += 32) {
      const std::uint32_t codes = load_word(row, word, p.k.aligned);
      squares += square_sum(codes);
      if (p.k_out != nullptr) {
        const std::int64_t at =
            head_row(p.keys, p.k.heads, tile.batch, head) * p.keys.len + tile.row + token;
        reinterpret_cast<std::uint32_t*>(p.k_out + at * p.k.dim)[word] = codes;
      }
    }
    largest = fmaxf(largest, warp_sum(squares));
  }
  largest = block_max(largest);
  if (threadIdx.x == 0) p.k_norms[slot * p.k.heads + head] = largest;
}

// One block per slot and kv head.
__global__ void __launch_bounds__(kThreads)
    prepare_kv_kernel(const __grid_constant__ PrepareParams p) {
  launch_dependents();  // attention, where it comes next
  wait_for_prior_kernel();
  if (blockIdx.x == 0 && threadIdx.x == 0 && p.tile_counter != nullptr) *p.tile_counter = 0;
  const int slot = static_cast<int>(blockIdx.x) / p.v.heads;
  const int head = static_cast<int>(blockIdx.x) % p.v.heads;
  const TokenTile tile = tile_of_slot(p.keys, slot);
  if (tile.used <= 0) return;
  if (p.e4m3_qk || p.k_out != nullptr) look_at_k(p, tile, slot, head);
  transpose_v(p, tile, slot, head);
}

// 2^-n, the largest that brings |q·k| of a row with |q|² and of every k within the f16 sums.
__device__ float row_factor(float square_q, float largest_square_k) {
  constexpr float kMargin = 1.0001f;  // for what rounding took from the norms
  const float bound = sqrtf(square_q) * sqrtf(largest_square_k) * kMargin;
  float factor = 1.0f;
  while (bound * factor > kLargestSum) factor *= 0.5f;
  return factor;
}

__device__ std::uint32_t scale_codes(std::uint32_t codes, float factor) {
  const float2 low = decode_pair(codes), high = decode_pair(codes >> 16);
  return e4m3_codes(low.x * factor, low.y * factor, high.x * factor, high.y * factor);
}

// One block per slot and query head.
__global__ void __launch_bounds__(kThreads)
    prepare_q_kernel(const __grid_constant__ PrepareParams p) {
  const int slot = static_cast<int>(blockIdx.x) / p.q.heads;
  const int head = static_cast<int>(blockIdx.x) % p.q.heads;
  launch_dependents();
  wait_for_prior_kernel();
  const TokenTile tile = tile_of_slot(p.queries, slot);
  if (tile.used <= 0) return;
  float largest = 0.0f;
  if (p.e4m3_qk) {
    const int tiles = (sequence_range(p.keys, tile.batch).used + kTileTokens - 1) / kTileTokens;
    const float* norms =
        p.k_norms + first_slot(p.keys, tile.batch) * p.k.heads + head / (p.q.heads / p.k.heads);
    for (int i = threadIdx.x; i < tiles; i += kThreads) {
      largest = fmaxf(largest, norms[i * p.k.heads]);
    }
    largest = block_max(largest);
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int token = static_cast<int>(threadIdx.x) / 32; token < tile.used; token += kWarps) {
    const std::uint8_t* row = p.q.row(tile, head, token);
    const std::int64_t at =
        head_row(p.queries, p.q.heads, tile.batch, head) * p.queries.len + tile.row + token;
    constexpr int kWords = kMostChannels / 4 / 32;
    std::uint32_t codes[kWords] = {};
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int word = i * 32 + lane;
      if (word >= p.q.dim / 4) break;
      codes[i] = load_word(row, word, p.q.aligned);
      if (p.e4m3_qk) squares += square_sum(codes[i]);
    }
    if (p.e4m3_qk) {
      const float factor = row_factor(warp_sum(squares), largest);
      if (factor != 1.0f) {
#pragma unroll
        for (std::uint32_t& word : codes) word = scale_codes(word, factor);
      }
      if (lane == 0) {
        p.q_scale_out[at] =
            p.q_scale.at(tile.batch, head, tile.row + token, tile.token + token) / factor;
      }
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int word = i * 32 + lane;
      if (word >= p.q.dim / 4) break;
      reinterpret_cast<std::uint32_t*>(p.q_out + at * p.q.dim)[word] = codes[i];
    }
  }
}

ByteRows byte_rows(const Tensor& x) {
  ByteRows rows;
  const bool packed = x.rank == 3;
  rows.data = static_cast<const std::uint8_t*>(x.data);
  rows.batch_stride = packed ? 0 : x.stride(0);
  rows.token_stride = x.stride(packed ? 0 : 1);
  rows.head_stride = x.stride(packed ? 1 : 2);
  rows.heads = static_cast<int>(x.size(x.rank - 2));
  rows.dim = static_cast<int>(x.size(x.rank - 1));
  rows.aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 &&
                 rows.batch_stride % 16 == 0 && rows.token_stride % 16 == 0 &&
                 rows.head_stride % 16 == 0;
  return rows;
}

// A head-major copy of rows, seen as the caller's tensor is.
Tensor head_major_view(void* data, const Tensor& like) {
  const std::int64_t heads = like.size(like.rank - 2), dim = like.size(like.rank - 1);
  const std::int64_t tokens = like.size(like.rank - 3), head_stride = tokens * dim;
  if (like.rank == 3) {
    return Tensor(data, like.dtype, {tokens, heads, dim}, {dim, head_stride, 1}, like.device);
  }
  return Tensor(data, like.dtype, {like.size(0), tokens, heads, dim},
                {heads * head_stride, dim, head_stride, 1}, like.device);
}

}  // namespace

struct Preparer::Places {
  std::uint8_t* q = nullptr;
  float* q_scale = nullptr;
  std::uint8_t* k = nullptr;
  float* k_norms = nullptr;
  std::uint8_t* v = nullptr;
  std::uint32_t* bad_keys = nullptr;
  std::size_t bytes = 0;
};

Reasons refuse_prepare(const AttentionArgs&, const Problem& problem) {
  Reasons reasons;
  if (problem.dtype_v != Dtype::e4m3) {
    reasons.push_back("8-bit q and k need v of e4m3, got " +
                      std::string(dtype_name(problem.dtype_v)));
  }
  for (const auto& [name, dim] :
       {std::pair<const char*, std::int64_t>("dim_qk", problem.dim_qk), {"dim_v", problem.dim_v}}) {
    if (dim % 16 != 0 || dim > kMostChannels) {
      reasons.push_back(std::string(name) + " must be a multiple of 16 up to 256, got " +
                        std::to_string(dim));
    }
  }
  if (problem.page_size > 0 || problem.batch_idx) {
    reasons.push_back("8-bit k and v of a cache (page_table, batch_idx) are not taken");
  }
  return reasons;
}

Preparer::Preparer(const AttentionArgs& args, const Problem& problem)
    : problem_(problem),
      prepare_kv_(function_of(reinterpret_cast<const void*>(&prepare_kv_kernel), 0)),
      prepare_q_(function_of(reinterpret_cast<const void*>(&prepare_q_kernel), 0)) {
  tokens_q_ = args.q.size(problem.packed_q ? 0 : 1);
  tokens_k_ = args.k.size(problem.packed_k ? 0 : 1);
  workspace_size_ = place(nullptr).bytes;
}

// Room for copies of rows that later runs may bring unaligned, too.
Preparer::Places Preparer::place(std::byte* workspace) const {
  Arena arena(workspace);
  Places places;
  const std::int64_t rows_q = (problem_.packed_q ? 1 : problem_.batch) * tokens_q_;
  const std::int64_t rows_k = (problem_.packed_k ? 1 : problem_.batch) * tokens_k_;
  const std::int64_t tiles = core::ceil_div(tokens_k_, kTileTokens);
  const std::int64_t slots =
      problem_.packed_k ? tokens_k_ / kTileTokens + problem_.batch : tiles * problem_.batch;
  places.q = arena.take<std::uint8_t>(rows_q * problem_.heads_q * problem_.dim_qk);
  places.q_scale = arena.take<float>(rows_q * problem_.heads_q);
  places.k = arena.take<std::uint8_t>(rows_k * problem_.heads_kv * problem_.dim_qk);
  places.k_norms = arena.take<float>(slots * problem_.heads_kv);
  places.v = arena.take<std::uint8_t>(slots * problem_.heads_kv * problem_.dim_v * kTileTokens);
  places.bad_keys = arena.take<std::uint32_t>(slots * problem_.heads_kv * kTileTokens / 32);
  places.bytes = arena.used();
  return places;
}

PreparedOperands Preparer::operands(const AttentionArgs& args, std::byte* workspace) const {
  const Places places = place(workspace);
  const bool e4m3_qk = problem_.dtype_q == Dtype::e4m3;
  const Device device = problem_.device;
  PreparedOperands o{.q = args.q, .k = args.k, .v = {}, .q_scale = args.descale.q};
  if (e4m3_qk || !byte_rows(args.q).aligned) o.q = head_major_view(places.q, args.q);
  if (!byte_rows(args.k).aligned) o.k = head_major_view(places.k, args.k);
  if (e4m3_qk) {
    const Tensor values =
        problem_.packed_q
            ? Tensor(places.q_scale, {problem_.heads_q, tokens_q_}, device).transposed(0, 1)
            : Tensor(places.q_scale, {problem_.batch, problem_.heads_q, tokens_q_}, device)
                  .transposed(1, 2);
    o.q_scale = Scale::per_token(values);
  }
  o.bad_keys = places.bad_keys;
  const std::int64_t blocks = problem_.packed_k ? tokens_k_ / kTileTokens + problem_.batch
                                                : core::ceil_div(tokens_k_, kTileTokens);
  o.v = Tensor(places.v, Dtype::e4m3,
               {(problem_.packed_k ? 1 : problem_.batch) * problem_.heads_kv, problem_.dim_v,
                blocks * kTileTokens},
               device);
  return o;
}

void Preparer::run(const AttentionArgs& args, std::byte* workspace, std::uint32_t* tile_counter,
                   cudaStream_t stream) const {
  const Places places = place(workspace);
  PrepareParams p;
  p.q = byte_rows(args.q);
  p.k = byte_rows(args.k);
  p.v = byte_rows(args.v);
  p.queries = token_side(args.q, args.seq.cu_seqlens_q, args.seq.seqused_q, {}, problem_.batch);
  p.keys = token_side(args.k, args.seq.cu_seqlens_k, args.seq.seqused_k, {}, problem_.batch);
  p.q_scale = scale_view(args.descale.q, p.q.heads);
  p.e4m3_qk = problem_.dtype_q == Dtype::e4m3;
  p.q_out = places.q;
  p.q_scale_out = places.q_scale;
  p.k_out = p.k.aligned ? nullptr : places.k;
  p.k_norms = places.k_norms;
  p.v_out = places.v;
  p.bad_keys = places.bad_keys;
  p.tile_counter = tile_counter;
  void* arguments[] = {&p};
  const auto launch_each = [&](CUfunction kernel, int slots, int heads) {
    launch(kernel,
           {.blocks = std::max(1, slots * heads),
            .threads = kThreads,
            .shared_bytes = 0,
            .dependent = true},
           arguments, stream);
  };
  launch_each(prepare_kv_, p.keys.slots, p.v.heads);
  if (p.e4m3_qk || !p.q.aligned) launch_each(prepare_q_, p.queries.slots, p.q.heads);
}

}  // namespace sotto::cuda

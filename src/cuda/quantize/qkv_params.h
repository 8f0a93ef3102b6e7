// What the kernels of the fused quantiser are told. Plain data, handed over by value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/quantize/rope_tables.h"

namespace sotto::cuda {

inline constexpr int kTileTokens = 128;
inline constexpr int kStatisticsCluster = 8;  // blocks that share a head's statistics
inline constexpr int kMostHeadsPerJob = 8;    // that a cluster takes through the same tokens

// Where the tokens of sequences lie. A slot is a tile of 128 tokens. Dense: sequence b has the
// slots from b·tiles; packed: from cu_seqlens[b]/128 + b, which keeps sequences apart whatever
// their lengths, so that a slot's place is known without adding lengths up.
struct TokenSide {
  const std::int32_t* cu_seqlens = nullptr;  // packed
  std::int64_t cu_stride = 1;
  const std::int32_t* seqused = nullptr;
  std::int64_t seqused_stride = 1;
  const std::int32_t* positions = nullptr;    // null: by index
  std::int64_t position_strides[2] = {0, 1};  // packed: only the second
  int batch = 0;
  int len = 0;    // dense: of every sequence; packed: of the tensor
  int tiles = 0;  // of a dense sequence
  int slots = 0;
};

enum class Operand : int { q = 0, k = 1, v = 2, none = 3 };

// One of Q, K and V: where its 16-bit rows are, what happens to them, and where the codes go.
struct OperandParams {
  const void* data = nullptr;
  std::int64_t batch_stride = 0, token_stride = 0, head_stride = 0;  // in elements
  bool aligned = true;  // every row begins at a multiple of 16 bytes
  int heads = 0, dim = 0;
  int hadamard = 0;        // channels of a block of the transform; 0: none
  float normalize = 1.0f;  // 1/sqrt(hadamard)
  bool rope = false;
  std::uint8_t* codes = nullptr;  // q, k: [batch, heads, len, dim] or [heads, total, dim]
  float* scales = nullptr;
  // Statistics, f32. Of channels, [batch, heads, dim], after the Hadamard transform but for its
  // factor; the largest magnitude, [batch, heads], of what is rounded. Null: not asked for.
  float* mean = nullptr;
  float* amax = nullptr;
  int mean_tokens = 0;  // only so many of the first; 0: all
};

struct QkvParams {
  OperandParams operands[3];  // by Operand
  TokenSide queries, keys;
  RopeTables rope;
  bool int8 = false;                  // Q and K; else e4m3
  bool v_block_scale = false;         // a power of two per 128 keys; else one scale per head
  bool v_power_of_two = false;        // the head's scale is rounded up, too
  bool bottom_right = false;          // queries without positions stand at i + len_k - len_q
  bool shared_positions = false;      // query i and key i stand at the same position
  int heads_per_job = 1;              // of the statistics: RoPE's factors are read once for them
  float scale = 1.0f;                 // of q·k
  float k_target = 28.0f;             // e4m3: what K's amax becomes
  std::uint32_t k_limit = 0x5e;       // e4m3: its code
  float* row_bias = nullptr;          // scale · q·mean(K)
  float* v_code_sums = nullptr;       // [slot, heads_kv, dim]: of rounded V, for V's mean
  float* v_mean = nullptr;            // [batch, heads_kv, dim]: to be added to the output
  std::int32_t* cu_blocks = nullptr;  // packed keys: first slot of each sequence
  std::uint32_t* bad_keys = nullptr;  // keys with a NaN in V, see qkv.h
  std::uint32_t* tile_counter = nullptr;  // set to 0
  bool is_first = true;                   // of the quantiser's kernels
};

}  // namespace sotto::cuda

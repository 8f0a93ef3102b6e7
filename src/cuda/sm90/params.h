// What an attention kernel is told about a request, in device pointers.
#pragma once

#include <cstdint>

namespace sotto::sm90 {

inline constexpr int kBlock = 128;  // keys that share a scale; V's padding
inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// f32, one number for each (batch, head, token) of dense tensors, (head, token) of packed ones.
struct RowView {
  float* data = nullptr;
  std::int64_t batch = 0, head = 0, token = 0;  // strides in elements; packed: batch is 0
};

// Q, K or V of 16 bits where they lie in memory. Strides in elements; packed: batch is 0.
struct HalfRows {
  const void* data = nullptr;
  std::int64_t batch = 0, head = 0, token = 0;
};

// Where the scales of one sequence begin in a packed tensor.
enum class FirstScale : int {
  none,      // dense: at the batch stride
  token,     // one for each token: at cu_seqlens[b]
  cu_blocks  // blocks restart at each sequence: at cu_blocks[b]
};

// Scales of q, k or v: of head h and token t the element
//     b·batch + (h / heads)·head + min(first + t / tokens, count - 1)·step.
struct ScaleView {
  const float* data = nullptr;  // null: 1
  std::int64_t batch = 0, head = 0, step = 0;
  int heads = 1;   // heads that share one
  int tokens = 1;  // tokens that share one
  int count = 1;   // along step: nothing beyond is read, whatever cu_blocks says
  FirstScale first = FirstScale::none;
  const int* cu_blocks = nullptr;
};

// A bit for each key of V in the 8-bit kernels' layout, see cuda/quantize/qkv.h.
struct KeyBits {
  const std::uint32_t* data = nullptr;
  std::int64_t slot = 0;  // stride in words
};

enum class OutDtype : int { f32, f16, bf16, e4m3 };

struct Params {
  // Sequences. Packed: len is the total of all tokens.
  int batch = 0, heads_q = 0, heads_kv = 0;
  int len_q = 0, len_k = 0;
  const int* cu_seqlens_q = nullptr;  // null: dense
  const int* cu_seqlens_k = nullptr;
  const int* seqused_q = nullptr;
  const int* seqused_k = nullptr;

  // The mask: -left <= j - i - offset <= right; -1: unbounded.
  int left = -1, right = -1;
  bool bottom_right = false;

  // The order of work, see schedule.h.
  int row_tiles = 0;              // dense: of a sequence; packed: of all, a bound
  int tiles = 0;                  // row_tiles · heads (· batch)
  int heads_together = 1;         // heads whose K and V stay in L2 at the same time
  unsigned* next_tile = nullptr;  // null: each block has its own

  // Scores: x = S · q_scale · k_scale · scale_log2 (+ bias), in units of log 2.
  float scale_log2 = 0;
  float softcap_log2 = 0;  // 0: none
  ScaleView q_scale, k_scale, v_scale;
  KeyBits bad_keys;              // of 8-bit V: those that make NaN of the rows that see them
  RowView row_bias;              // natural units; see Smoothing::row_bias
  const float* sinks = nullptr;  // [heads_q], natural units
  std::int64_t sink_stride = 0;

  // Output.
  void* out = nullptr;
  std::int64_t out_batch = 0, out_head = 0, out_token = 0;  // strides in elements
  OutDtype out_dtype = OutDtype::bf16;
  bool out_aligned = true;           // rows begin at multiples of 16 bytes
  const float* out_scale = nullptr;  // e4m3: one element, or null
  RowView lse;                       // data null: not asked for
  RowView v_mean;                    // [batch, heads_kv, dim_v], added to the output
  int dim_v = 0;                     // columns that are stored
  int hadamard_block = 0;            // size of the transform to undo; 0: none

  // 16-bit kernels, for rows whose scores overflow.
  HalfRows q_rows, k_rows, v_rows;
  int dim_qk = 0;
};

}  // namespace sotto::sm90

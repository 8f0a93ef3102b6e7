// Quantisation with what belongs in front of it fused in: RoPE, then Hadamard, then a subtracted
// mean, then rounding.
#pragma once

#include <cstdint>
#include <string_view>

#include "sotto/attention.h"
#include "sotto/tensor.h"

namespace sotto {

// Rotary position embedding of the first rotary_dim channels.
//   halves ("NeoX", Llama):     pairs (d, d + rotary_dim/2)
//   interleaved (GPT-J, FLUX):  pairs (2d, 2d + 1)
// (x0, x1) becomes (x0·cos − x1·sin, x1·cos + x0·sin).
struct Rope {
  Tensor cos = {}, sin = {};  // f32 [positions, rotary_dim/2], or [positions, rotary_dim] with a
                              // factor for each channel of a pair; absent: no RoPE
  bool interleaved = false;
  std::int64_t rotary_dim = 0;  // 0: the whole head size
  Tensor positions = {};        // i32 [batch or 1, len] or packed [total]: a token's row of cos and
                                // sin; absent: its index in its sequence

  explicit operator bool() const { return static_cast<bool>(cos); }
};

// x ≈ out · descale. descale = amax/448 (e4m3) or amax/127 (INT8) over the finite elements of each
// scale's share, at least 2^-126; round to nearest even, saturate. amax 0: zeros, descale 1. ±Inf
// becomes ±largest; NaN stays NaN in e4m3 and becomes 0 in INT8, in its own element (with RoPE its
// pair, with Hadamard its token).
struct QuantizeArgs {
  Tensor x = {};       // f32, f16 or bf16 [batch, len, heads, dim] or packed [total, heads, dim]
  Tensor out = {};     // e4m3 or i8: quantised; f32, f16, bf16: transformed only. x's shape
  Tensor out_lo = {};  // optional e4m3 beside an e4m3 out: the rounding error of out, at the same
                       // scale, so that x ≈ (out + out_lo) · descale
  Scale descale = {};  // written; its granularity, block and cu_blocks say which elements share a
                       // scale. Absent exactly where out is not 8-bit. kv_head: values [batch,
                       // heads_kv], where heads_kv divides x's heads
  bool power_of_two = false;  // round each descale up to a power of two
  Rope rope = {};
  bool hadamard = false;
  Tensor mean = {};  // optional f32 [batch, heads, dim]: subtracted after RoPE and Hadamard
  // Optional: what smoothing took out of the scores, dot = dot_scale · x·dot_with in fp32, x after
  // RoPE and Hadamard and, unless dot_before_mean, the subtraction. dot_with is f32 [batch, heads',
  // dim]; of heads and heads' one divides the other, as under GQA. dot is written, f32 [batch,
  // max(heads, heads'), len] or packed [max(heads, heads'), total].
  Tensor dot_with = {}, dot = {};
  float dot_scale = 1.0f;
  bool dot_before_mean = false;
  Tensor cu_seqlens = {};  // i32 [batch + 1]: x is packed
  Tensor seqused = {};     // i32 [batch]: tokens from there on are ignored and come out as zeros
  std::string_view backend = {};
};

void quantize(const QuantizeArgs& args, Stream stream = {});

// The mean of each channel over the first max_tokens valid tokens of each sequence, after RoPE and
// Hadamard: what quantize() and append_kv() subtract. Over finite elements; 0 where there is none.
struct ChannelMeanArgs {
  Tensor x = {};                // f32, f16, bf16, or quantised with `descale`
  Tensor mean = {};             // written, f32 [batch, heads, dim]
  Scale descale = {};           // of a quantised x
  std::int64_t max_tokens = 0;  // 0: all
  Rope rope = {};
  bool hadamard = false;
  Tensor cu_seqlens = {}, seqused = {};  // as in QuantizeArgs
  std::string_view backend = {};
};

void channel_mean(const ChannelMeanArgs& args, Stream stream = {});

}  // namespace sotto

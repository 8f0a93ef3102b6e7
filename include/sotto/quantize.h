/// @file
/// Quantisation with what belongs in front of it fused in: RoPE, then Hadamard, then a subtracted
/// mean, then rounding.
#pragma once

#include <cstdint>
#include <string_view>

#include "sotto/attention.h"
#include "sotto/export.h"
#include "sotto/tensor.h"

namespace sotto {

/// Rotary position embedding of the first rotary_dim channels.
///
///     halves ("NeoX", Llama):     pairs (d, d + rotary_dim/2)
///     interleaved (GPT-J, FLUX):  pairs (2d, 2d + 1)
///
/// (x0, x1) becomes (x0·cos − x1·sin, x1·cos + x0·sin).
struct Rope {
  /// f32 [positions, rotary_dim/2], or [positions, rotary_dim] with a factor for each channel of a
  /// pair; absent: no RoPE.
  Tensor cos = {};
  Tensor sin = {};              ///< as cos
  bool interleaved = false;     ///< which channels make a pair
  std::int64_t rotary_dim = 0;  ///< 0: the whole head size
  /// i32 [batch or 1, len] or packed [total]: a token's row of cos and sin; absent: its index in
  /// its sequence.
  Tensor positions = {};

  /// Whether there is one.
  explicit operator bool() const { return static_cast<bool>(cos); }
};

/// A tensor to quantise, x ≈ out · descale, and where to.
///
/// descale = amax/448 (e4m3) or amax/127 (INT8) over the finite elements of each scale's share, at
/// least 2^-126; round to nearest even, saturate. amax 0: zeros, descale 1. ±Inf becomes ±largest;
/// NaN stays NaN in e4m3 and becomes 0 in INT8, in its own element (with RoPE its pair, with
/// Hadamard its token).
struct QuantizeArgs {
  Tensor x = {};    ///< f32, f16 or bf16 [batch, len, heads, dim] or packed [total, heads, dim]
  Tensor out = {};  ///< e4m3 or i8: quantised; f32, f16, bf16: transformed only. x's shape
  /// Optional e4m3 beside an e4m3 out: the rounding error of out, at the same scale, so that
  /// x ≈ (out + out_lo) · descale.
  Tensor out_lo = {};
  /// Written; its granularity, block and cu_blocks say which elements share a scale. Absent exactly
  /// where out is not 8-bit. kv_head: values [batch, heads_kv], where heads_kv divides x's heads.
  Scale descale = {};
  bool power_of_two = false;  ///< round each descale up to a power of two
  Rope rope = {};             ///< first
  bool hadamard = false;      ///< then: the transform along each head (see Hadamard)
  Tensor mean = {};           ///< then: optional f32 [batch, heads, dim], subtracted
  /// Optional f32 [batch, heads', dim]: with it, what smoothing took out of the scores is computed,
  /// dot = dot_scale · x·dot_with in fp32, x after RoPE and Hadamard and, unless dot_before_mean,
  /// the subtraction. Of heads and heads' one divides the other, as under GQA.
  Tensor dot_with = {};
  Tensor dot = {};         ///< written, f32 [batch, max(heads, heads'), len] or packed [.., total]
  float dot_scale = 1.0f;  ///< a factor of dot
  bool dot_before_mean = false;  ///< dot takes x before the mean is subtracted
  Tensor cu_seqlens = {};        ///< i32 [batch + 1]: x is packed
  Tensor seqused = {};  ///< i32 [batch]: tokens from there on are ignored and come out as zeros
  std::string_view backend = {};  ///< run on this one; empty: activated, else by rules
};

/// Quantises. Throws InvalidArgument and Unsupported, before anything is written.
SOTTO_API void quantize(const QuantizeArgs& args, Stream stream = {});

/// A tensor to average over its tokens: what quantize() and append_kv() subtract.
///
/// The mean of each channel over the first max_tokens valid tokens of each sequence, after RoPE and
/// Hadamard. Over finite elements; 0 where there is none.
struct ChannelMeanArgs {
  Tensor x = {};                  ///< f32, f16, bf16, or quantised with `descale`
  Tensor mean = {};               ///< written, f32 [batch, heads, dim]
  Scale descale = {};             ///< of a quantised x
  std::int64_t max_tokens = 0;    ///< 0: all
  Rope rope = {};                 ///< as in QuantizeArgs
  bool hadamard = false;          ///< as in QuantizeArgs
  Tensor cu_seqlens = {};         ///< as in QuantizeArgs
  Tensor seqused = {};            ///< as in QuantizeArgs
  std::string_view backend = {};  ///< run on this one; empty: activated, else by rules
};

/// Averages. Throws InvalidArgument and Unsupported, before anything is written.
SOTTO_API void channel_mean(const ChannelMeanArgs& args, Stream stream = {});

}  // namespace sotto

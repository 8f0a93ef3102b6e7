/// @file
/// Attention on the dtypes it is given: what is asked (AttentionArgs), and the two ways to run it
/// (attention(), AttentionPlan).
///
///     O[b,i,h,:] = Σ_j softmax_j( z[b,h,i,j] ) · V[b,j,h_kv,:]
///     z[b,h,i,j] = cap( scale · q·k ) + mask,   cap(x) = softcap · tanh(x / softcap)
///
/// Query head h uses kv head h / (heads_q / heads_kv). A row that sees no key gives O = 0 and
/// LSE = -inf (with a sink: the sink). All memory belongs to the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "sotto/export.h"
#include "sotto/recipe.h"
#include "sotto/tensor.h"

namespace sotto {

/// Which keys a query may see.
///
/// Query i sees key j where  -left <= j - i - offset <= right  (-1: unbounded on that side) and the
/// dense mask, if there is one, allows it. The offset is 0 (top left) or len_k - len_q of the
/// sequence at hand (bottom right).
struct Mask {
  /// Where the band's diagonal starts.
  enum class Align : std::uint8_t {
    top_left,      ///< the first query and the first key: offset 0
    bottom_right,  ///< the last query and the last key: offset len_k - len_q
  };

  std::int64_t left = -1;         ///< how many keys before the diagonal are seen; -1: all
  std::int64_t right = -1;        ///< how many keys after the diagonal are seen; -1: all
  Align align = Align::top_left;  ///< where the diagonal starts

  /// Optional, [batch or 1, heads_q or 1, len_q, len_k], any strides. boolean: true = may attend.
  /// f32, f16, bf16: added to z in natural units, after the cap; -inf hides the key. i and j count
  /// within their sequence; for packed tensors len_q and len_k are max_len_q and max_len_k.
  Tensor dense = {};

  /// Every query sees every key.
  static Mask none() { return {}; }
  /// Top left, as torch's is_causal.
  static Mask causal() { return {.right = 0}; }
  /// The last query sees every key, as FlashAttention's causal: for queries that follow a cache.
  static Mask causal_bottom_right() { return {.right = 0, .align = Align::bottom_right}; }
  /// Bottom right, as FlashAttention's window_size = (left, right).
  static Mask window(std::int64_t left, std::int64_t right) {
    return {.left = left, .right = right, .align = Align::bottom_right};
  }
  /// A mask of the caller's own; see `dense`.
  static Mask from_dense(const Tensor& dense) { return {.dense = dense}; }
  /// The same mask with another alignment.
  Mask aligned(Align to) const {
    Mask mask = *this;
    mask.align = to;
    return mask;
  }
};

/// fp32 factors that turn stored numbers into values: x = data · scale.
///
/// Any strides; 0 broadcasts. The numbers are used as they are: a NaN is not looked for.
///
///     granularity  dense (paged, where it differs)  packed (varlen)
///     tensor       [1]                              [1]
///     head         [batch, heads]                   [batch, heads]
///     kv_head      [batch, heads_kv]                [batch, heads_kv]
///     block        [batch, heads, ceil(len/block)]  [heads, blocks]
///     token        [batch, len, heads]              [total, heads]
///                  ([pages, page_size, heads])
///
/// Packed blocks restart at each sequence: those of sequence b are cu_blocks[b] … cu_blocks[b+1]-1.
/// Dense K/V of a cache with batch_idx: `head` and `block` are indexed by the sequence, `token` by
/// the cache row, as the data is.
struct SOTTO_API Scale {
  Tensor values = {};                             ///< f32, of the shape in the table
  Granularity granularity = Granularity::tensor;  ///< which elements share a factor
  std::int64_t block = 0;                         ///< tokens per block, for Granularity::block
  Tensor cu_blocks = {};                          ///< i32 [batch + 1], for packed blocks

  /// Absent.
  Scale() = default;
  /// One element: tensor. Rank 2: head, or kv_head for Q when there are fewer kv heads and the
  /// shape says so. Rank 3: token. Otherwise name the granularity by one of the functions below.
  Scale(const Tensor& values);  // NOLINT(google-explicit-constructor): .q = dq is the point
  static Scale per_tensor(const Tensor& values);   ///< Granularity::tensor
  static Scale per_head(const Tensor& values);     ///< Granularity::head
  static Scale per_kv_head(const Tensor& values);  ///< Granularity::kv_head
  /// Granularity::block, of `block` tokens; cu_blocks where the tensor is packed.
  static Scale per_block(const Tensor& values, std::int64_t block, const Tensor& cu_blocks = {});
  static Scale per_token(const Tensor& values);  ///< Granularity::token

  /// Whether there is one.
  explicit operator bool() const { return static_cast<bool>(values); }
};

/// Scales of 8-bit inputs.
///
/// e4m3 without a descale counts as 1, with a warning once; INT8 without one is an error.
struct Descales {
  Scale q = {};  ///< of AttentionArgs::q
  Scale k = {};  ///< of AttentionArgs::k
  Scale v = {};  ///< of AttentionArgs::v, and of v_lo
};

/// Lengths of ragged batches; all i32 on the device of q.
///
/// Packed tokens that belong to no sequence (before cu_seqlens[0], after cu_seqlens[batch]) are
/// neither read nor written.
struct Sequences {
  Tensor cu_seqlens_q = {};  ///< [batch + 1]: q, out are packed, [total_q, heads_q, dim]
  Tensor cu_seqlens_k = {};  ///< [batch + 1]: k, v are packed, [total_k, heads_kv, dim]
  /// [batch]: only the first queries of each sequence count; the others get O = 0, LSE = -inf.
  Tensor seqused_q = {};
  Tensor seqused_k = {};  ///< [batch]: only the first keys count (FlashAttention's cache_seqlens)
  /// Upper bound of the sequences' lengths in packed q, for the plan's work split; 0: the total.
  std::int64_t max_len_q = 0;
  std::int64_t max_len_k = 0;  ///< the same for packed k and v
};

/// Keys and values that live in a cache.
struct Cache {
  /// i32 [batch, pages per sequence]: k, v are [pages, page_size, heads_kv, dim]; only entries
  /// below ceil(seqused_k / page_size) are read (without seqused_k all, every page being full).
  Tensor page_table = {};
  Tensor batch_idx = {};  ///< i32 [batch]: sequence b uses row batch_idx[b] of a dense k, v
};

/// Pre-processing of K and V that the result must make up for.
///
/// All fp32, in the basis of k and v as stored (after RoPE and after any Hadamard transform).
struct Smoothing {
  /// [batch, heads_kv, dim_qk] that was subtracted from K. Softmax does not see it; LSE, sinks and
  /// softcap do, and get scale · q·k_mean back.
  Tensor k_mean = {};
  /// [batch, heads_q, len_q] or [heads_q, total_q]: scale · q·k_mean computed from the unquantised
  /// q; used instead of k_mean.
  Tensor row_bias = {};
  /// [batch, heads_q, len_k] or [heads_q, total_k]: scale · q_mean·k of the stored k, which Q
  /// smoothing took away; added to the scores before the cap.
  Tensor key_bias = {};
  /// [batch, heads_kv, dim_v] that was subtracted from V; added to the output.
  Tensor v_mean = {};
};

/// Output that is quantised on the way out; `out`'s dtype chooses.
///
///     out                scale      group_scale        result
///     f32, f16, bf16     –          –                  o
///     e4m3               f32 [1]    –                  e4m3(o / scale)
///     e4m3               –          f32 or ue8m0 (1)   e4m3(o / s), s = amax / 448 of the group,
///                                                      for ue8m0 rounded up to a power of two
///     e2m1x2 (NVFP4)     f32 [1]    e4m3 (2)           o ≈ e2m1 · s / scale,
///                                                      s = e4m3(scale · amax / 6) of each 16
///
///     (1) [tokens, heads_q·dim_v / group], any strides (row- or column-major, padded)
///     (2) [ceil128(tokens), ceil4(heads_q·dim_v / 16)], contiguous, 128x4 swizzled
///
/// tokens = batch · len_q or total_q. The group (64 or 128) follows from group_scale's shape and
/// never crosses a head. An e2m1x2 `out` has dim_v/2 bytes a row. The 128x4 swizzle puts the scale
/// of row r and column c at  ((r/128)·(columns/4) + c/4)·512 + (r%32)·16 + (r/32%4)·4 + c%4 ;
/// padding is 0.
struct OutputQuant {
  /// f32 [1], read on the device, never on the host: for e4m3 the output scale, for NVFP4 the
  /// global scale g.
  Tensor scale = {};
  Tensor group_scale = {};  ///< written: (1) or (2) of the table
};

/// A request: attention(), AttentionPlan, and with more about its inputs sdpa().
///
/// Dtypes: q and k both f32, f16 or bf16, both e4m3, both INT8, or, for a quantised cache, q of 16
/// or 32 bits beside k of e4m3 or INT8. v is e4m3 or of 16 or 32 bits (q's dtype, where q is not
/// 8-bit). Where v is e4m3, P is rounded to e4m3, too, but not over a quantised cache, and the sum
/// under O is that of the rounded P (LSE's is not); backend `reference` alone never rounds P. Any
/// strides with a contiguous last dimension. Head sizes: 16…256 in steps of 16, and 512.
struct AttentionArgs {
  /// [batch, len_q, heads_q, dim_qk], or packed [total_q, heads_q, dim_qk].
  Tensor q = {};
  /// [batch, len_k, heads_kv, dim_qk], packed [total_k, heads_kv, dim_qk], or paged [pages,
  /// page_size, heads_kv, dim_qk].
  Tensor k = {};
  Tensor v = {};    ///< as k with dim_v
  Tensor out = {};  ///< q's shape with dim_v: f32, f16, bf16, or quantised (see OutputQuant)
  /// Optional, written: log Σ_j exp(z) (natural; with a sink: the sink's term included), f32
  /// [batch, heads_q, len_q] or [heads_q, total_q].
  Tensor lse = {};

  std::optional<float> scale = {};  ///< of q·k; default 1/sqrt(dim_qk)
  float softcap = 0.0f;             ///< > 0: cap(x) = softcap · tanh(x / softcap)
  Mask mask = {};                   ///< which keys a query may see; default: all
  Descales descale = {};            ///< scales of 8-bit q, k, v
  Tensor sinks = {};   ///< optional f32 [heads_q]: a logit per head that joins the denominator only
  Sequences seq = {};  ///< lengths of ragged batches
  Cache cache = {};    ///< where k and v lie in a cache
  Smoothing smoothing = {};  ///< what was taken out of k and v beforehand
  OutputQuant output = {};   ///< scales of a quantised out
  /// Optional e4m3, v's shape: the second term of V (value (v + v_lo)·descale), used on the key
  /// blocks that VFormat::e4m3_hi_lo names.
  Tensor v_lo = {};
  bool hadamard_v = false;  ///< V is stored Hadamard-transformed: transform the output back
  int num_splits = 0;  ///< split-KV: into how many parts the keys are cut; 0: the backend chooses
  bool fast = false;   ///< see Recipe
  Accumulation accumulation = Accumulation::safe;  ///< see Recipe

  float dropout_p = 0.0f;       ///< refused by every backend today, with what to do instead
  Tensor alibi_slopes = {};     ///< f32 [heads_q]; refused, too
  bool needs_backward = false;  ///< the caller will differentiate; refused, too

  std::string_view backend = {};  ///< run on this one; empty: activated, else by rules
};

/// Bytes a plan needs beside the tensors. data may be null where size() of the plan is 0.
using Workspace = std::span<std::byte>;

class Backend;
class AttentionKernel;
struct Problem;

/// A request with its backend, its way of working and its workspace settled: made once, run often.
///
/// Immutable; run() may be called from several threads with a workspace each.
class SOTTO_API AttentionPlan {
 public:
  /// Throws InvalidArgument (illegal), Unsupported (no backend takes it).
  explicit AttentionPlan(const AttentionArgs& args);
  ~AttentionPlan();
  AttentionPlan(AttentionPlan&&) noexcept;             ///< leaves nothing but a plan to destroy
  AttentionPlan& operator=(AttentionPlan&&) noexcept;  ///< leaves nothing but a plan to destroy

  std::size_t workspace_size() const;  ///< bytes, 64-byte aligned memory
  std::string_view backend() const;    ///< the name of the chosen one

  /// Attends.
  ///
  /// Pointers, strides, scales and lengths may differ from the plan's; shapes, dtypes and features
  /// may not (InvalidArgument says which). Data of host tensors (lengths, page tables) is checked
  /// here, on every run; of GPU tensors it is checked that they are that GPU's memory. Allocates
  /// nothing that grows with the problem. On a GPU: returns before the work is done, leaves the
  /// current device as it is, never waits, and may be captured in a CUDA graph.
  void run(const AttentionArgs& args, Workspace workspace, Stream stream = {}) const;

 private:
  std::unique_ptr<const Problem> problem_;
  std::shared_ptr<const Backend> backend_;
  std::unique_ptr<const AttentionKernel> kernel_;
};

/// Chooses, plans, allocates a workspace (on a GPU in the stream's order), runs: the simple way.
///
/// Throws InvalidArgument and Unsupported, before anything is written.
SOTTO_API void attention(const AttentionArgs& args, Stream stream = {});

}  // namespace sotto

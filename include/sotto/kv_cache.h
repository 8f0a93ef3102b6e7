/// @file
/// Writing new keys and values into a cache, in place.
#pragma once

#include <string_view>

#include "sotto/attention.h"
#include "sotto/export.h"
#include "sotto/quantize.h"

namespace sotto {

/// New keys and values, and the cache that they go to.
///
/// To decode: append_kv(), then attention() over the same cache with seqused_k = cache_seqlens +
/// new and Mask::causal_bottom_right(). q goes through quantize() to 16 or 32 bits where K in the
/// cache is rotated or transformed: the same RoPE (with positions) and the same Hadamard. What else
/// was done to K and V here attention() is told: the same scales (a cache of 16 or 32 bits has
/// none), smoothing.k_mean, smoothing.v_mean and hadamard_v.
///
/// New token t of sequence b goes to position cache_seqlens[b] + t of the cache. Nothing else is
/// written, cache_seqlens is not advanced. A position or page outside the cache is an error that
/// names the sequence, before anything is written. No two sequences may write to the same row or
/// page.
struct AppendKvArgs {
  Tensor k = {};  ///< f32, f16 or bf16 [batch, len_new, heads_kv, dim_qk] or packed (cu_seqlens)
  Tensor v = {};  ///< as k with dim_v
  /// [rows, capacity, heads_kv, dim_qk], or paged [pages, page_size, heads_kv, dim_qk]; f32, f16,
  /// bf16, e4m3 or i8.
  Tensor k_cache = {};
  Tensor v_cache = {};        ///< as k_cache with dim_v, but never i8
  Tensor cache_seqlens = {};  ///< i32 [batch]: how many tokens each sequence already has
  Tensor cu_seqlens = {};     ///< i32 [batch + 1]: k and v are packed [total, heads_kv, dim]
  Tensor page_table = {};     ///< i32 [batch, pages per sequence]: the cache is paged
  Tensor batch_idx = {};      ///< i32 [batch]: row of a dense cache for each sequence
  /// Scale of an 8-bit k_cache. tensor, head: read (values beyond the range saturate; absent: 1).
  /// token: written, as quantize() would.
  Scale k_descale = {};
  Scale v_descale = {};     ///< the same for v_cache
  Rope rope = {};           ///< of k; without positions, the position in the cache
  bool hadamard_k = false;  ///< transform k, after RoPE
  bool hadamard_v = false;  ///< transform v
  /// Optional f32 [batch, heads_kv, dim_qk], subtracted from k after RoPE and Hadamard; must stay
  /// the same for the life of a sequence.
  Tensor k_mean = {};
  Tensor v_mean = {};             ///< the same for v, [batch, heads_kv, dim_v]
  std::string_view backend = {};  ///< run on this one; empty: activated, else by rules
};

/// Appends. Throws InvalidArgument and Unsupported, before anything is written.
SOTTO_API void append_kv(const AppendKvArgs& args, Stream stream = {});

}  // namespace sotto

// Writing new keys and values into a cache, in place.
#pragma once

#include <string_view>

#include "sotto/attention.h"
#include "sotto/quantize.h"

namespace sotto {

// To decode: append_kv(), then attention() over the same cache with seqused_k = cache_seqlens + new
// and Mask::causal_bottom_right(). q goes through quantize() to 16 or 32 bits where K in the cache
// is rotated or transformed: the same RoPE (with positions) and the same Hadamard.
//
// New token t of sequence b goes to position cache_seqlens[b] + t of the cache. Nothing else is
// written, cache_seqlens is not advanced. A position or page outside the cache is an error that
// names the sequence, before anything is written. No two sequences may write to the same row or
// page.
struct AppendKvArgs {
  Tensor k = {}, v = {};  // f32, f16 or bf16 [batch, len_new, heads_kv, dim] or packed
  Tensor k_cache = {},
         v_cache = {};  // [rows, capacity, heads_kv, dim], or paged [pages, page_size, heads_kv,
                        // dim]; f32, f16, bf16, e4m3, or (k only) i8
  Tensor cache_seqlens = {};  // i32 [batch]: how many tokens each sequence already has
  Tensor cu_seqlens = {};     // i32 [batch + 1]: k and v are packed [total, heads_kv, dim]
  Tensor page_table = {};     // i32 [batch, pages per sequence]
  Tensor batch_idx = {};      // i32 [batch]: row of a dense cache for each sequence
  // Scales of 8-bit caches. tensor, head: read (values beyond the range saturate; absent: 1).
  // token: written, as quantize() would.
  Scale k_descale = {}, v_descale = {};
  Rope rope = {};  // of k; without positions, the position in the cache
  bool hadamard_k = false, hadamard_v = false;
  Tensor k_mean = {};  // optional f32 [batch, heads_kv, dim], subtracted after RoPE and Hadamard;
                       // must stay the same for the life of a sequence
  Tensor v_mean = {};
  std::string_view backend = {};
};

void append_kv(const AppendKvArgs& args, Stream stream = {});

}  // namespace sotto

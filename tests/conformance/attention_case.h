// One case of attention() or sdpa(), read from its line in the table.
//
//   b2  q64  k256        batch; lengths (q1:0:17: one for each sequence)
//   h8/2  d192/128       heads_q/heads_kv; dim_qk/dim_v
//   in=bf16/i8/e4m3      dtypes of q/k/v; one name: all three
//   sq=token sk=block32 sv=head     scales of 8-bit operands: tensor, head, kv_head, block<n>,
//   token,
//                        broadcast ([batch, heads] with stride 0), absent (1)
//   bhsd, strided, far   storage order of q, k, v, out; gaps between their rows; gaps so large that
//                        offsets pass 32 bits
//   packed, packed_q, paged<n>, batch_idx, padded_q, padded_k, max_len
//                        packed q and k, or q alone; padded: more rows than count (seqused)
//   causal, causal_br, window=L/R, band=L/R (top left), dense=bool:b:h (or 1 for either; f32, f16,
//                        bf16 are additive)
//   scale=x softcap<n> sinks lse splits<n> fast plain
//   had=qk|qkv|v_only  k_mean row_bias q_mean v_mean v_lo     on operands quantised beforehand
//   sdpa=recipe, with RoPE as RopeWords reads it
//   out=f32|f16|bf16|e4m3|groups64|groups128|nvfp4, then :ue8m0 :col :pad ; range=x scales the
//                        output scale (1: amax just fits)
//   data=…               see data.h
//   db=x                 least SQNR against the truth, where the rule of judge.cpp does not fit
//   slack=x              dB that a case of few rows may lie below the rules of judge.cpp
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sotto/sotto.h"
#include "transforms.h"

namespace sotto::test {

Dtype dtype_named(const std::string& name);  // as dtype_name() spells it

// How one operand is stored.
struct Operand {
  Dtype dtype = Dtype::f32;
  Granularity granularity = Granularity::head;
  std::int64_t block = 0;
  bool broadcast = false;
  bool absent = false;
};

struct AttentionCase {
  explicit AttentionCase(const std::string& text);

  std::string line;
  std::int64_t batch;
  std::vector<std::int64_t> len_q, len_k;  // that count, of each sequence
  std::int64_t heads_q, heads_kv, dim_qk, dim_v;
  Operand q, k, v;

  Order order;
  bool packed_q, packed_k, batch_idx, max_len;
  std::int64_t page_size;             // 0: not paged
  std::int64_t padding_q, padding_k;  // rows of a sequence beyond those that count

  Mask mask;
  std::optional<Dtype> dense;
  bool dense_batch = false, dense_heads = false;
  std::optional<float> scale;
  float softcap;
  bool sinks, lse, fast;
  int splits;
  Accumulation accumulation;

  bool hadamard_qk, hadamard_v, k_mean, row_bias, q_mean, v_mean, v_lo;

  std::optional<Recipe> recipe;  // sdpa()
  RopeWords rope;

  OutputKind output;
  Dtype dtype_out;
  std::int64_t group;
  bool ue8m0_scales, column_major, padded_scales;
  float range;

  std::string data;
  std::optional<double> least_db;
  double slack_db;

  // What the shapes and max_len allow a sequence to have: Problem::len_q and len_k.
  std::int64_t capacity_q() const;
  std::int64_t capacity_k() const;
  std::int64_t pages_per_sequence() const;  // of the page table, one more than needed
  std::int64_t total(const std::vector<std::int64_t>& lengths, std::int64_t padding) const;

  bool p_e4m3() const;     // P is rounded to e4m3
  bool quantized() const;  // anything in 8 bits on the way in
};

}  // namespace sotto::test

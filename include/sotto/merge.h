/// @file
/// Merging attention over disjoint sets of keys: split-KV, cascades, ring attention.
#pragma once

#include <string_view>
#include <vector>

#include "sotto/attention.h"
#include "sotto/export.h"
#include "sotto/tensor.h"

namespace sotto {

/// Attention over one part of the keys, as attention() leaves it.
struct PartialState {
  /// f32, f16 or bf16 [batch, len_q, heads_q, dim_v] or [total_q, heads_q, dim_v].
  Tensor out = {};
  /// f32 [batch, heads_q, len_q] or [heads_q, total_q], natural log; -inf: no key seen.
  Tensor lse = {};
};

/// What merge_states() does: the states become attention over all their keys.
///
///     out = Σ_s exp(lse_s − lse) · out_s,  lse = log Σ_s exp(lse_s)
///
/// (FlashAttention-2, section 3.1.1). Under a causal mask the part with the last keys keeps it,
/// bottom right; the parts before have none. Rows that no state saw give 0 and -inf. Sinks belong
/// into exactly one of the states.
struct MergeArgs {
  std::vector<PartialState> states = {};  ///< at least one, all of one shape
  Tensor out = {};                        ///< as AttentionArgs::out, quantised or not
  Tensor lse = {};                        ///< optional, as AttentionArgs::lse
  OutputQuant output = {};                ///< scales of a quantised out
  std::string_view backend = {};          ///< run on this one; empty: activated, else by rules
};

/// Merges. Throws InvalidArgument and Unsupported, before anything is written.
SOTTO_API void merge_states(const MergeArgs& args, Stream stream = {});

}  // namespace sotto

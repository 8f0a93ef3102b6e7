// What sdpa() asks beyond a legal AttentionArgs.
#include "core/element.h"
#include "core/geometry.h"
#include "core/sdpa_composed.h"
#include "core/validate.h"

namespace sotto::core {

void check_takes_floats(const AttentionArgs& args) {
  const auto must_be_float = [](std::string_view name, const Tensor& tensor) {
    if (tensor && !is_float(tensor.dtype)) {
      fail(name,
           "sdpa quantises by itself and takes f32, f16 or bf16, got {}; attention() takes "
           "quantised tensors",
           dtype_name(tensor.dtype));
    }
  };
  must_be_float("q", args.q);
  must_be_float("k", args.k);
  must_be_float("v", args.v);
}

void check(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem) {
  const auto must_be_absent = [](std::string_view name, bool present) {
    if (present) fail(name, "must be empty: sdpa's recipe fills it in");
  };
  must_be_absent("smoothing",
                 problem.k_mean || problem.row_bias || problem.key_bias || problem.v_mean);
  must_be_absent("v_lo", problem.v_lo);
  must_be_absent("hadamard_v", problem.hadamard_v);
  if (options.positions_k && !options.rope) {
    fail("positions_k", "needs rope.cos and rope.sin");
  }
  if (!changes_inputs(options)) return;
  if (problem.page_size > 0) {
    fail("cache.page_table",
         "sdpa does not quantise or rotate a paged cache on the fly; write it "
         "with append_kv() and call attention()");
  }
  if (problem.batch_idx) {
    fail("cache.batch_idx",
         "sdpa does not quantise or rotate a cache on the fly; write it with "
         "append_kv() and call attention()");
  }
  const Sequences& seq = args.seq;
  const TokenShape q = token_shape("q", args.q, seq.cu_seqlens_q, "seq.cu_seqlens_q");
  const TokenShape k = token_shape("k", args.k, seq.cu_seqlens_k, "seq.cu_seqlens_k");
  check_rope(options.rope, q, problem.device);
  if (!options.rope) return;
  if (options.rope.positions && !options.positions_k && q.len != k.len) {
    fail("positions_k",
         "is required where q and k have different numbers of tokens ({} and {}): "
         "rope.positions are the queries'",
         q.len, k.len);
  }
  check_rope(rope_of_keys(options), k, problem.device);
}

namespace {

// Bottom right, the first of more queries than keys stand before position 0. That is harmless
// where the mask hides all keys from them, as the causal one does.
void check_positions_not_negative(const AttentionArgs& args, const Problem& problem) {
  if (problem.mask_align == Mask::Align::top_left || problem.mask_right == 0) return;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const Sequence sequence = sequence_at(args, problem, b);
    if (sequence.offset < 0 && sequence.len_k > 0) {
      fail("rope.positions",
           "is required: sequence {} has {} queries for {} keys, and the bottom-right mask would "
           "put the first at the negative position {}",
           b, sequence.len_q, sequence.len_k, sequence.offset);
    }
  }
}

}  // namespace

void check_contents(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem) {
  check_contents(args, problem);
  if (!options.rope || problem.device.type != DeviceType::cpu) return;
  const Sequences& seq = args.seq;
  const TokenShape q = token_shape("q", args.q, seq.cu_seqlens_q, "seq.cu_seqlens_q");
  const TokenShape k = token_shape("k", args.k, seq.cu_seqlens_k, "seq.cu_seqlens_k");
  check_rope_contents(rope_of_keys(options), k, seq.cu_seqlens_k, seq.seqused_k);
  // Bottom right, the last query stands at the last key: the keys' check covers it.
  if (options.rope.positions || problem.mask_align == Mask::Align::top_left) {
    check_rope_contents(options.rope, q, seq.cu_seqlens_q, seq.seqused_q);
  } else {
    check_positions_not_negative(args, problem);
  }
}

}  // namespace sotto::core

// What a legal MergeArgs is.
#include "core/validate.h"

namespace sotto::core {
namespace {

void check_lse(std::string_view argument, const Tensor& lse, const TokenShape& tokens,
               const Device& device, Access access) {
  if (tokens.packed) {
    check_table(argument, lse, Dtype::f32, {tokens.heads, tokens.rows}, "[heads_q, total_q]",
                device, access);
  } else {
    check_table(argument, lse, Dtype::f32, {tokens.batch, tokens.heads, tokens.len},
                "[batch, heads_q, len_q]", device, access);
  }
}

}  // namespace

TokenShape shape_of_states(const MergeArgs& args) {
  const Tensor& first = args.states.front().out;
  const bool packed = first.rank == 3;
  return {.batch = packed ? 1 : first.size(0),
          .len = first.size(packed ? 0 : 1),
          .rows = packed ? first.size(0) : first.size(0) * first.size(1),
          .heads = first.size(first.rank - 2),
          .dim = first.size(first.rank - 1),
          .packed = packed};
}

void check(const MergeArgs& args) {
  if (args.states.empty()) fail("states", "must hold at least one state, got none");
  const Tensor& first = args.states.front().out;
  check_present("states[0].out", first);
  if (first.rank != 3 && first.rank != 4) {
    fail("states[0].out",
         "must be [batch, len_q, heads_q, dim_v] or [total_q, heads_q, dim_v], got {}",
         to_string(first));
  }
  if (std::int64_t rows;
      first.rank == 4 && __builtin_mul_overflow(first.size(0), first.size(1), &rows)) {
    fail("states[0].out", "sizes overflow 64 bits: {}", to_string(first));
  }
  const TokenShape tokens = shape_of_states(args);
  if (tokens.heads < 1 || tokens.dim < 1) {
    fail("states[0].out", "must have at least one head of at least one number, got {}",
         to_string(first));
  }
  for (std::size_t s = 0; s < args.states.size(); ++s) {
    const PartialState& state = args.states[s];
    const std::string out = fmt::format("states[{}].out", s);
    const std::string lse = fmt::format("states[{}].lse", s);
    check_present(out, state.out);
    check_dtype(out, state.out, {Dtype::f32, Dtype::f16, Dtype::bf16});
    if (state.out.rank != first.rank || state.out.shape != first.shape) {
      fail(out, "shape must be that of states[0].out, {}, got {}", to_string(first),
           to_string(state.out));
    }
    check_device(out, state.out, first.device);
    check_contiguous_last(out, state.out);
    check_memory(out, state.out, Access::read);
    check_present(lse, state.lse);
    check_lse(lse, state.lse, tokens, first.device, Access::read);
  }
  check_output(args.out, args.output, tokens, first.device);
  if (args.lse) check_lse("lse", args.lse, tokens, first.device, Access::write);
  check_apart("lse", args.lse, "out", args.out);
}

}  // namespace sotto::core

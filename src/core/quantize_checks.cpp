// What a legal QuantizeArgs and ChannelMeanArgs is.
#include "core/element.h"
#include "core/validate.h"

namespace sotto::core {
namespace {

void check_same_shape(std::string_view argument, const Tensor& tensor, const Tensor& x) {
  check_present(argument, tensor);
  if (tensor.rank != x.rank || tensor.shape != x.shape) {
    fail(argument, "shape must be x's, {}, got {}", to_string(x), to_string(tensor));
  }
  check_device(argument, tensor, x.device);
  check_contiguous_last(argument, tensor);
}

void check_seqused_shape(const Tensor& seqused, const TokenShape& tokens, const Device& device) {
  if (seqused) check_table("seqused", seqused, Dtype::i32, {tokens.batch}, "[batch]", device);
}

// Heads of the scale tensor under Granularity::kv_head.
std::int64_t scale_heads_kv(const Scale& scale, const TokenShape& tokens) {
  if (scale.granularity != Granularity::kv_head) return tokens.heads;
  check_rank("descale", scale.values, 2);
  const std::int64_t heads = scale.values.size(1);
  if (heads < 1 || tokens.heads % heads != 0) {
    fail("descale", "kv heads must divide x's {} heads, got {}", tokens.heads, heads);
  }
  return heads;
}

void check_descale(const Scale& descale, const Tensor& x, const TokenShape& tokens, Access access) {
  check_scale(descale, {.argument = "descale",
                        .tokens = tokens,
                        .heads_kv = scale_heads_kv(descale, tokens),
                        .rows = x.size(0),
                        .device = x.device,
                        .access = access});
}

void check_dot(const QuantizeArgs& args, const TokenShape& tokens) {
  if (!args.dot_with && !args.dot) return;
  check_present("dot_with", args.dot_with);
  check_present("dot", args.dot);
  check_rank("dot_with", args.dot_with, 3);
  const std::int64_t heads = args.dot_with.size(1);
  if (heads < 1 || (heads % tokens.heads != 0 && tokens.heads % heads != 0)) {
    fail("dot_with", "heads must divide x's {} heads or be a multiple, got {}", tokens.heads,
         heads);
  }
  check_table("dot_with", args.dot_with, Dtype::f32, {tokens.batch, heads, tokens.dim},
              "[batch, heads, dim]", args.x.device);
  const std::int64_t out_heads = std::max(heads, tokens.heads);
  if (tokens.packed) {
    check_table("dot", args.dot, Dtype::f32, {out_heads, tokens.rows}, "[heads, total]",
                args.x.device, Access::write);
  } else {
    check_table("dot", args.dot, Dtype::f32, {tokens.batch, out_heads, tokens.len},
                "[batch, heads, len]", args.x.device, Access::write);
  }
}

}  // namespace

void check(const QuantizeArgs& args) {
  const TokenShape tokens = token_shape("x", args.x, args.cu_seqlens, "cu_seqlens");
  check_dtype("x", args.x, {Dtype::f32, Dtype::f16, Dtype::bf16});
  check_contiguous_last("x", args.x);
  check_memory("x", args.x, Access::read);
  check_same_shape("out", args.out, args.x);
  check_dtype("out", args.out, {Dtype::e4m3, Dtype::i8, Dtype::f32, Dtype::f16, Dtype::bf16});
  check_memory("out", args.out, Access::write);
  if (is_quantized(args.out.dtype)) {
    check_present("descale", args.descale.values);
    check_descale(args.descale, args.x, tokens, Access::write);
  } else if (args.descale) {
    fail("descale", "is for an 8-bit out, but out is {}", dtype_name(args.out.dtype));
  }
  if (args.out_lo) {
    check_same_shape("out_lo", args.out_lo, args.x);
    check_dtype("out_lo", args.out_lo, {Dtype::e4m3});
    check_dtype("out", args.out, {Dtype::e4m3});
    check_memory("out_lo", args.out_lo, Access::write);
  }
  check_rope(args.rope, tokens, args.x.device);
  if (args.mean) {
    check_table("mean", args.mean, Dtype::f32, {tokens.batch, tokens.heads, tokens.dim},
                "[batch, heads, dim]", args.x.device);
  }
  check_dot(args, tokens);
  check_seqused_shape(args.seqused, tokens, args.x.device);
}

void check(const ChannelMeanArgs& args) {
  const TokenShape tokens = token_shape("x", args.x, args.cu_seqlens, "cu_seqlens");
  check_dtype("x", args.x, {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3, Dtype::i8});
  check_contiguous_last("x", args.x);
  check_memory("x", args.x, Access::read);
  if (args.descale) {
    if (!is_quantized(args.x.dtype)) {
      fail("descale", "is for an 8-bit x, but x is {}", dtype_name(args.x.dtype));
    }
    check_descale(args.descale, args.x, tokens, Access::read);
  } else if (args.x.dtype == Dtype::i8) {
    fail("descale", "is required for INT8 data: it has no natural scale");
  }
  check_present("mean", args.mean);
  check_table("mean", args.mean, Dtype::f32, {tokens.batch, tokens.heads, tokens.dim},
              "[batch, heads, dim]", args.x.device, Access::write);
  if (args.max_tokens < 0) fail("max_tokens", "must not be negative, got {}", args.max_tokens);
  check_rope(args.rope, tokens, args.x.device);
  check_seqused_shape(args.seqused, tokens, args.x.device);
}

}  // namespace sotto::core

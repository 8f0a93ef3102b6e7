// Parts of validation that several requests share: token shapes, scales, RoPE tables, outputs.
#include <string>

#include "core/element.h"
#include "core/geometry.h"
#include "core/validate.h"

namespace sotto::core {

TokenShape token_shape(std::string_view argument, const Tensor& tensor, const Tensor& cu_seqlens,
                       std::string_view cu_argument) {
  check_present(argument, tensor);
  TokenShape shape;
  shape.packed = static_cast<bool>(cu_seqlens);
  if (shape.packed) {
    check_rank(cu_argument, cu_seqlens, 1);
    if (cu_seqlens.size(0) < 1) fail(cu_argument, "must have batch + 1 entries, got none");
    check_table(cu_argument, cu_seqlens, Dtype::i32, {cu_seqlens.size(0)}, "[batch + 1]",
                tensor.device);
    if (tensor.rank != 3) {
      fail(argument, "must be packed, [total, heads, dim], beside {}, got {}", cu_argument,
           to_string(tensor));
    }
    shape.batch = cu_seqlens.size(0) - 1;
    shape.len = shape.rows = tensor.size(0);
  } else {
    if (tensor.rank != 4) {
      fail(argument, "must be [batch, len, heads, dim] (or packed with {}), got {}", cu_argument,
           to_string(tensor));
    }
    shape.batch = tensor.size(0);
    shape.len = tensor.size(1);
    if (__builtin_mul_overflow(shape.batch, shape.len, &shape.rows)) {
      fail(argument, "sizes overflow 64 bits: {}", to_string(tensor));
    }
  }
  shape.heads = tensor.size(tensor.rank - 2);
  shape.dim = tensor.size(tensor.rank - 1);
  if (shape.heads < 1 || shape.dim < 1) {
    fail(argument, "must have at least one head of at least one number, got {}", to_string(tensor));
  }
  return shape;
}

void check_scale(const Scale& scale, const ScaleContext& context) {
  const TokenShape& tokens = context.tokens;
  const Tensor& values = scale.values;
  check_present(context.argument, values);
  const auto table = [&](std::initializer_list<std::int64_t> sizes, std::string_view meaning) {
    check_table(context.argument, values, Dtype::f32, sizes, meaning, context.device,
                context.access);
  };
  switch (scale.granularity) {
    case Granularity::tensor:
      if (values.numel() != 1) {
        fail(context.argument, "per tensor: must have one element, got {}", to_string(values));
      }
      check_dtype(context.argument, values, {Dtype::f32});
      check_device(context.argument, values, context.device);
      check_memory(context.argument, values, context.access);
      return;
    case Granularity::head:
      return table({tokens.batch, tokens.heads}, "[batch, heads]");
    case Granularity::kv_head:
      return table({tokens.batch, context.heads_kv}, "[batch, heads_kv]");
    case Granularity::token:
      if (tokens.packed) return table({tokens.rows, tokens.heads}, "[total, heads]");
      if (context.page_size > 0) {
        return table({context.pages, context.page_size, tokens.heads}, "[pages, page_size, heads]");
      }
      return table({context.rows, tokens.len, tokens.heads},
                   "[batch, len, heads] (for blocks: Scale::per_block)");
    case Granularity::block:
      break;
  }
  if (scale.block < 1)
    fail(context.argument, "tokens per block must be at least 1, got {}", scale.block);
  if (!tokens.packed) {
    const std::int64_t blocks = ceil_div(tokens.len, scale.block);
    return table({tokens.batch, tokens.heads, blocks}, "[batch, heads, ceil(len / block)]");
  }
  if (values.rank != 2) {
    fail(context.argument, "must be [heads, blocks] for packed data, got {}", to_string(values));
  }
  table({tokens.heads, values.size(1)}, "[heads, blocks]");
  const std::string cu_blocks = std::string(context.argument) + ".cu_blocks";
  check_present(cu_blocks, scale.cu_blocks);
  check_table(cu_blocks, scale.cu_blocks, Dtype::i32, {tokens.batch + 1}, "[batch + 1]",
              context.device);
}

void check_rope(const Rope& rope, const TokenShape& tokens, const Device& device) {
  if (!rope) {
    if (rope.sin) fail("rope.cos", "is required beside rope.sin");
    return;
  }
  check_present("rope.sin", rope.sin);
  const std::int64_t rotary = rope.rotary_dim == 0 ? tokens.dim : rope.rotary_dim;
  if (rotary < 2 || rotary % 2 != 0 || rotary > tokens.dim) {
    fail("rope.rotary_dim", "must be even and from 2 to the head size {}, got {}", tokens.dim,
         rotary);
  }
  check_rank("rope.cos", rope.cos, 2);
  const std::int64_t width = rope.cos.size(1);
  if (width != rotary && width != rotary / 2) {
    fail("rope.cos", "must be [positions, {}] or [positions, {}], got {}", rotary / 2, rotary,
         to_string(rope.cos));
  }
  check_table("rope.cos", rope.cos, Dtype::f32, {rope.cos.size(0), width}, "[positions, width]",
              device);
  if (rope.cos.size(0) < 1) fail("rope.cos", "must have at least one row, got none");
  check_table("rope.sin", rope.sin, Dtype::f32, {rope.cos.size(0), width}, "rope.cos's", device);
  if (!rope.positions) return;
  const Tensor& positions = rope.positions;
  if (tokens.packed) {
    check_table("rope.positions", positions, Dtype::i32, {tokens.rows}, "[total]", device);
  } else {
    check_rank("rope.positions", positions, 2);
    const std::int64_t batch = positions.size(0) == 1 ? 1 : tokens.batch;
    check_table("rope.positions", positions, Dtype::i32, {batch, tokens.len}, "[batch or 1, len]",
                device);
  }
}

namespace {

void check_fp8_output(const OutputQuant& output, const TokenShape& tokens, const Device& device) {
  if (static_cast<bool>(output.scale) == static_cast<bool>(output.group_scale)) {
    fail("output",
         "an e4m3 out needs either output.scale (per tensor) or output.group_scale (per "
         "group), got {}",
         output.scale ? "both" : "neither");
  }
  if (output.scale) {
    check_table("output.scale", output.scale, Dtype::f32, {1}, "[1]", device);
    return;
  }
  const Tensor& scales = output.group_scale;
  check_dtype("output.group_scale", scales, {Dtype::f32, Dtype::ue8m0});
  check_rank("output.group_scale", scales, 2);
  for (std::int64_t group : {64, 128}) {
    const std::int64_t width = tokens.heads * tokens.dim;
    if (width % group != 0 || scales.size(1) != width / group) continue;
    if (tokens.dim % group != 0) {
      fail("output.group_scale", "groups of {} would cross heads of size {}", group, tokens.dim);
    }
    check_table("output.group_scale", scales, scales.dtype, {tokens.rows, scales.size(1)},
                "[tokens, heads_q * dim_v / group]", device, Access::write);
    return;
  }
  fail("output.group_scale", "shape must be [{}, {} / group] with groups of 64 or 128, got {}",
       tokens.rows, tokens.heads * tokens.dim, to_string(scales));
}

void check_nvfp4_output(const OutputQuant& output, const TokenShape& tokens, const Device& device) {
  if (tokens.dim % 16 != 0) {
    fail("out", "NVFP4 has a scale per 16 numbers, but heads have {}", tokens.dim);
  }
  check_present("output.scale", output.scale);
  check_table("output.scale", output.scale, Dtype::f32, {1}, "[1]", device);
  check_present("output.group_scale", output.group_scale);
  const std::int64_t rows = (tokens.rows + 127) / 128 * 128;
  const std::int64_t columns = (tokens.heads * tokens.dim / 16 + 3) / 4 * 4;
  check_table("output.group_scale", output.group_scale, Dtype::e4m3, {rows, columns},
              "[ceil128(tokens), ceil4(heads_q * dim_v / 16)]", device, Access::write);
  check_contiguous_last("output.group_scale", output.group_scale);
  if (rows > 1 && output.group_scale.stride(0) != columns) {
    fail("output.group_scale",
         "must be contiguous (the layout is the swizzle's), got row stride {}",
         output.group_scale.stride(0));
  }
}

}  // namespace

OutputFormat check_output(const Tensor& out, const OutputQuant& output, const TokenShape& tokens,
                          const Device& device) {
  check_present("out", out);
  check_dtype("out", out, {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3, Dtype::e2m1x2});
  const bool pairs = out.dtype == Dtype::e2m1x2;
  const std::int64_t width = pairs ? tokens.dim / 2 : tokens.dim;
  // Literals: plans check every run, and that should not allocate.
  if (tokens.packed) {
    check_shape("out", out, {tokens.rows, tokens.heads, width},
                pairs ? "[total_q, heads_q, dim_v / 2]" : "[total_q, heads_q, dim_v]");
  } else {
    check_shape("out", out, {tokens.batch, tokens.len, tokens.heads, width},
                pairs ? "[batch, len_q, heads_q, dim_v / 2]" : "[batch, len_q, heads_q, dim_v]");
  }
  check_device("out", out, device);
  check_contiguous_last("out", out);
  check_memory("out", out, Access::write);
  // An empty tensor's other sizes may be anything.
  if (std::int64_t row; __builtin_mul_overflow(tokens.heads, tokens.dim, &row)) {
    fail("out", "sizes overflow 64 bits: {}", to_string(out));
  }
  if (out.dtype == Dtype::e4m3) {
    check_fp8_output(output, tokens, device);
  } else if (out.dtype == Dtype::e2m1x2) {
    check_nvfp4_output(output, tokens, device);
  } else if (output.scale || output.group_scale) {
    fail(output.scale ? "output.scale" : "output.group_scale",
         "is for an out of e4m3 or e2m1x2, but out is {}", dtype_name(out.dtype));
  }
  return output_format(out, output, tokens.heads * tokens.dim);
}

}  // namespace sotto::core

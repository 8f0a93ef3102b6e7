// describe(): what a legal AttentionArgs is.
#include <cmath>
#include <string>

#include "core/check.h"
#include "core/element.h"
#include "core/validate.h"

namespace sotto {

Scale::Scale(const Tensor& tensor) : values(tensor) {
  if (tensor.numel() == 1 || tensor.rank < 2) {
    granularity = Granularity::tensor;
  } else {
    granularity = tensor.rank == 2 ? Granularity::head : Granularity::token;
  }
}

namespace {

Scale with_granularity(const Tensor& values, Granularity granularity) {
  Scale scale(values);
  scale.granularity = granularity;
  return scale;
}

}  // namespace

Scale Scale::per_tensor(const Tensor& values) {
  return with_granularity(values, Granularity::tensor);
}
Scale Scale::per_head(const Tensor& values) { return with_granularity(values, Granularity::head); }
Scale Scale::per_kv_head(const Tensor& values) {
  return with_granularity(values, Granularity::kv_head);
}
Scale Scale::per_token(const Tensor& values) {
  return with_granularity(values, Granularity::token);
}
Scale Scale::per_block(const Tensor& values, std::int64_t block, const Tensor& cu_blocks) {
  Scale scale = with_granularity(values, Granularity::block);
  scale.block = block;
  scale.cu_blocks = cu_blocks;
  return scale;
}

namespace core {
namespace {

bool is_head_size(std::int64_t dim) {
  return dim == 512 || (dim >= 16 && dim <= 256 && dim % 16 == 0);
}

void check_head_size(std::string_view argument, std::int64_t dim) {
  if (!is_head_size(dim)) {
    fail(argument, "head size must be a multiple of 16 from 16 to 256, or 512, got {}", dim);
  }
}

// K or V: dense, packed, or paged, against what q says.
void check_kv(std::string_view argument, const Tensor& tensor, const AttentionArgs& args,
              const Problem& problem) {
  check_present(argument, tensor);
  if (!problem.packed_k && tensor.rank == 3) {
    fail(argument, "must have 4 dimensions (or be packed, with seq.cu_seqlens_k), got {}",
         to_string(tensor));
  }
  check_rank(argument, tensor, problem.packed_k ? 3 : 4);
  check_device(argument, tensor, problem.device);
  check_contiguous_last(argument, tensor);
  if (!problem.packed_k && problem.page_size == 0 && !args.cache.batch_idx &&
      tensor.size(0) != problem.batch) {
    fail(argument, "batch must be {}, as q's, got {}", problem.batch, to_string(tensor));
  }
}

void describe_shapes(const AttentionArgs& args, Problem& problem) {
  const Sequences& seq = args.seq;
  check_present("q", args.q);
  problem.device = args.q.device;
  problem.packed_q = static_cast<bool>(seq.cu_seqlens_q);
  const TokenShape q = token_shape("q", args.q, seq.cu_seqlens_q, "seq.cu_seqlens_q");
  check_contiguous_last("q", args.q);
  problem.batch = q.batch;
  problem.rows_q = q.rows;
  problem.len_q = q.len;
  problem.heads_q = q.heads;
  problem.dim_qk = q.dim;
  check_head_size("q", q.dim);
  std::int64_t rows;  // of all sequences and heads, which backends count
  if (__builtin_mul_overflow(q.batch, q.heads, &rows) ||
      __builtin_mul_overflow(rows, q.len, &rows)) {
    fail(problem.packed_q ? "seq.cu_seqlens_q" : "q",
         "{} sequences of {} tokens and {} heads overflow 64 bits", q.batch, q.len, q.heads);
  }

  problem.packed_k = static_cast<bool>(seq.cu_seqlens_k);
  problem.batch_idx = static_cast<bool>(args.cache.batch_idx);
  if (args.cache.page_table) {
    if (problem.packed_k) fail("cache.page_table", "cannot be combined with seq.cu_seqlens_k");
    if (problem.batch_idx) fail("cache.page_table", "cannot be combined with cache.batch_idx");
    check_rank("k", args.k, 4);
    problem.page_size = args.k.size(1);
    if (problem.page_size < 1) fail("k", "page size must be at least 1, got {}", to_string(args.k));
  }
  if (problem.packed_k && problem.batch_idx) {
    fail("cache.batch_idx", "cannot be combined with seq.cu_seqlens_k");
  }
  check_kv("k", args.k, args, problem);
  check_kv("v", args.v, args, problem);
  const int heads_dim = args.k.rank - 2;
  problem.heads_kv = args.k.size(heads_dim);
  problem.dim_v = args.v.size(heads_dim + 1);
  if (args.k.size(heads_dim + 1) != problem.dim_qk) {
    fail("k", "head size must be {}, as q's, got {}", problem.dim_qk, to_string(args.k));
  }
  check_head_size("v", problem.dim_v);
  for (int d = 0; d <= heads_dim; ++d) {
    if (args.v.size(d) != args.k.size(d)) {
      fail("v", "dimension {} must be {}, as k's, got {}", d, args.k.size(d), to_string(args.v));
    }
  }
  if (problem.heads_kv < 1 || problem.heads_q % problem.heads_kv != 0) {
    fail("k", "heads must divide q's {} heads, got {}", problem.heads_q, problem.heads_kv);
  }
}

void describe_sequences(const AttentionArgs& args, Problem& problem) {
  const Sequences& seq = args.seq;
  const Device& device = problem.device;
  if (problem.packed_k) {
    check_table("seq.cu_seqlens_k", seq.cu_seqlens_k, Dtype::i32, {problem.batch + 1},
                "[batch + 1]", device);
    problem.total_k = problem.len_k = args.k.size(0);
  } else if (problem.page_size > 0) {
    check_rank("cache.page_table", args.cache.page_table, 2);
    const std::int64_t pages = args.cache.page_table.size(1);
    check_table("cache.page_table", args.cache.page_table, Dtype::i32, {problem.batch, pages},
                "[batch, pages per sequence]", device);
    if (__builtin_mul_overflow(pages, problem.page_size, &problem.len_k)) {
      fail("cache.page_table", "{} pages of {} tokens overflow 64 bits", pages, problem.page_size);
    }
  } else {
    problem.len_k = args.k.size(1);
  }
  if (problem.batch_idx) {
    check_table("cache.batch_idx", args.cache.batch_idx, Dtype::i32, {problem.batch}, "[batch]",
                device);
  }
  if (seq.seqused_q) {
    check_table("seq.seqused_q", seq.seqused_q, Dtype::i32, {problem.batch}, "[batch]", device);
    problem.seqused_q = true;
  }
  if (seq.seqused_k) {
    check_table("seq.seqused_k", seq.seqused_k, Dtype::i32, {problem.batch}, "[batch]", device);
    problem.seqused_k = true;
  }
  const auto limit = [](std::string_view name, std::int64_t bound, bool packed, std::int64_t& len) {
    if (bound < 0) fail(name, "must not be negative, got {}", bound);
    if (packed && bound > 0) len = std::min(len, bound);
  };
  limit("seq.max_len_q", seq.max_len_q, problem.packed_q, problem.len_q);
  limit("seq.max_len_k", seq.max_len_k, problem.packed_k, problem.len_k);
}

void describe_dtypes(const AttentionArgs& args, Problem& problem) {
  problem.dtype_q = args.q.dtype;
  problem.dtype_k = args.k.dtype;
  problem.dtype_v = args.v.dtype;
  check_dtype("q", args.q, {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3, Dtype::i8});
  const bool cache = is_float(problem.dtype_q) && is_quantized(problem.dtype_k);
  if (!cache && problem.dtype_k != problem.dtype_q) {
    fail("k", "dtype must be {}, as q's{}, got {}", dtype_name(problem.dtype_q),
         is_float(problem.dtype_q) ? ", or e4m3 or i8 (a quantised cache)" : "",
         dtype_name(problem.dtype_k));
  }
  if (is_float(problem.dtype_q)) {
    if (problem.dtype_v != problem.dtype_q && problem.dtype_v != Dtype::e4m3) {
      fail("v", "dtype must be {}, as q's, or e4m3, got {}", dtype_name(problem.dtype_q),
           dtype_name(problem.dtype_v));
    }
  } else {
    check_dtype("v", args.v, {Dtype::e4m3, Dtype::f32, Dtype::f16, Dtype::bf16});
  }
  problem.p_e4m3 = problem.dtype_v == Dtype::e4m3 && !cache;
  if (args.v_lo) {
    if (problem.dtype_v != Dtype::e4m3) {
      fail("v_lo", "is the second term of an e4m3 v, but v is {}", dtype_name(problem.dtype_v));
    }
    check_dtype("v_lo", args.v_lo, {Dtype::e4m3});
    if (args.v_lo.rank != args.v.rank || args.v_lo.shape != args.v.shape) {
      fail("v_lo", "shape must be v's, {}, got {}", to_string(args.v), to_string(args.v_lo));
    }
    check_device("v_lo", args.v_lo, problem.device);
    check_contiguous_last("v_lo", args.v_lo);
    check_memory("v_lo", args.v_lo, Access::read);
    problem.v_lo = true;
  }
}

TokenShape kv_tokens(const AttentionArgs& args, const Problem& problem, std::int64_t dim) {
  return {.batch = problem.batch,
          .len = problem.len_k,
          .rows = args.k.size(0),  // tokens, where packed
          .heads = problem.heads_kv,
          .dim = dim,
          .packed = problem.packed_k};
}

void describe_scales(const AttentionArgs& args, Problem& problem) {
  const TokenShape q{.batch = problem.batch,
                     .len = problem.packed_q ? problem.len_q : args.q.size(1),
                     .rows = problem.rows_q,
                     .heads = problem.heads_q,
                     .dim = problem.dim_qk,
                     .packed = problem.packed_q};
  const auto one = [&](std::string_view argument, const Scale& scale, const Tensor& tensor,
                       const TokenShape& tokens, bool cached, Granularity& granularity,
                       std::int64_t& block) {
    if (!scale) {
      if (tensor.dtype == Dtype::i8) {
        fail(argument, "is required for INT8 data: it has no natural scale");
      }
      return;
    }
    if (!is_quantized(tensor.dtype)) {
      fail(argument, "is for 8-bit data, but the tensor is {}", dtype_name(tensor.dtype));
    }
    check_scale(scale, {.argument = argument,
                        .tokens = tokens,
                        .heads_kv = problem.heads_kv,
                        .page_size = cached ? problem.page_size : 0,
                        .pages = cached ? tensor.size(0) : 0,
                        .rows = tensor.size(0),
                        .device = problem.device});
    granularity = scale.granularity;
    block = scale.block;
  };
  // [batch, heads_kv] scales of Q need not be called so (FlashAttention-3's are not).
  Scale q_scale = args.descale.q;
  if (q_scale && q_scale.granularity == Granularity::head && q_scale.values.rank == 2 &&
      q_scale.values.size(1) == problem.heads_kv && problem.heads_kv != problem.heads_q) {
    q_scale.granularity = Granularity::kv_head;
  }
  one("descale.q", q_scale, args.q, q, false, problem.granularity_q, problem.block_q);
  one("descale.k", args.descale.k, args.k, kv_tokens(args, problem, problem.dim_qk), true,
      problem.granularity_k, problem.block_k);
  one("descale.v", args.descale.v, args.v, kv_tokens(args, problem, problem.dim_v), true,
      problem.granularity_v, problem.block_v);
}

void describe_scores(const AttentionArgs& args, Problem& problem) {
  problem.scale = args.scale.value_or(1.0f / std::sqrt(static_cast<float>(problem.dim_qk)));
  if (!std::isfinite(problem.scale)) fail("scale", "must be finite, got {}", problem.scale);
  problem.softcap = args.softcap;
  if (!(args.softcap >= 0.0f) || std::isinf(args.softcap)) {
    fail("softcap", "must be 0 (none) or a positive number, got {}", args.softcap);
  }

  const Mask& mask = args.mask;
  const auto side = [&](std::string_view name, std::int64_t width) {
    if (width < -1) fail(name, "must be -1 (unbounded) or at least 0, got {}", width);
    // Wider than any distance is unbounded; keeps the arithmetic of the band from overflowing.
    return width / 2 > std::max(problem.len_q, problem.len_k) ? std::int64_t{-1} : width;
  };
  problem.mask_left = side("mask.left", mask.left);
  problem.mask_right = side("mask.right", mask.right);
  problem.mask_align = mask.align;
  if (mask.dense) {
    const Tensor& dense = mask.dense;
    check_dtype("mask.dense", dense, {Dtype::boolean, Dtype::f32, Dtype::f16, Dtype::bf16});
    check_rank("mask.dense", dense, 4);
    const bool batch = dense.size(0) == 1 || dense.size(0) == problem.batch;
    const bool heads = dense.size(1) == 1 || dense.size(1) == problem.heads_q;
    if (!batch || !heads || dense.size(2) != problem.len_q || dense.size(3) != problem.len_k) {
      fail("mask.dense", "shape must be [{} or 1, {} or 1, {}, {}], got {}", problem.batch,
           problem.heads_q, problem.len_q, problem.len_k, to_string(dense));
    }
    check_device("mask.dense", dense, problem.device);
    check_memory("mask.dense", dense, Access::read);
    problem.dense_mask = true;
  }
  if (args.sinks) {
    check_table("sinks", args.sinks, Dtype::f32, {problem.heads_q}, "[heads_q]", problem.device);
    problem.sinks = true;
  }
  if (args.num_splits < 0) fail("num_splits", "must not be negative, got {}", args.num_splits);
  problem.num_splits = args.num_splits;
}

// A value per (head, token): [batch, heads, len] or [heads, total].
void check_head_major(std::string_view argument, const Tensor& tensor, bool packed,
                      std::int64_t batch, std::int64_t heads, std::int64_t len, std::int64_t total,
                      const Device& device, Access access) {
  if (packed) {
    check_table(argument, tensor, Dtype::f32, {heads, total}, "[heads_q, total]", device, access);
  } else {
    check_table(argument, tensor, Dtype::f32, {batch, heads, len}, "[batch, heads_q, len]", device,
                access);
  }
}

void describe_smoothing(const AttentionArgs& args, Problem& problem) {
  const Smoothing& s = args.smoothing;
  const auto mean = [&](std::string_view argument, const Tensor& tensor, std::int64_t dim) {
    if (!tensor) return false;
    check_table(argument, tensor, Dtype::f32, {problem.batch, problem.heads_kv, dim},
                "[batch, heads_kv, dim]", problem.device);
    return true;
  };
  problem.k_mean = mean("smoothing.k_mean", s.k_mean, problem.dim_qk);
  problem.v_mean = mean("smoothing.v_mean", s.v_mean, problem.dim_v);
  if (s.row_bias) {
    check_head_major("smoothing.row_bias", s.row_bias, problem.packed_q, problem.batch,
                     problem.heads_q, problem.len_q, problem.rows_q, problem.device, Access::read);
    problem.row_bias = true;
  }
  if (s.key_bias) {
    check_head_major("smoothing.key_bias", s.key_bias, problem.packed_k, problem.batch,
                     problem.heads_q, problem.len_k, args.k.size(0), problem.device, Access::read);
    problem.key_bias = true;
  }
}

void describe_outputs(const AttentionArgs& args, Problem& problem) {
  check_apart("out", args.out, "q", args.q);
  check_apart("out", args.out, "k", args.k);
  check_apart("out", args.out, "v", args.v);
  check_apart("lse", args.lse, "out", args.out);
  const TokenShape tokens{.batch = problem.batch,
                          .len = problem.packed_q ? problem.len_q : args.q.size(1),
                          .rows = problem.rows_q,
                          .heads = problem.heads_q,
                          .dim = problem.dim_v,
                          .packed = problem.packed_q};
  const OutputFormat format = check_output(args.out, args.output, tokens, problem.device);
  problem.dtype_out = args.out.dtype;
  problem.output = format.kind;
  problem.group = format.group;
  if (args.lse) {
    check_head_major("lse", args.lse, problem.packed_q, problem.batch, problem.heads_q,
                     problem.len_q, problem.rows_q, problem.device, Access::write);
    problem.lse = true;
  }
}

}  // namespace
}  // namespace core

Problem describe(const AttentionArgs& args) {
  using namespace core;
  Problem problem;
  describe_shapes(args, problem);
  describe_sequences(args, problem);
  describe_dtypes(args, problem);
  check_memory("q", args.q, Access::read);
  check_memory("k", args.k, Access::read);
  check_memory("v", args.v, Access::read);
  describe_scales(args, problem);
  describe_scores(args, problem);
  describe_smoothing(args, problem);
  describe_outputs(args, problem);
  problem.hadamard_v = args.hadamard_v;
  problem.fast = args.fast;
  problem.accumulation = args.accumulation;
  if (!(args.dropout_p >= 0.0f && args.dropout_p < 1.0f)) {
    fail("dropout_p", "must lie in [0, 1), got {}", args.dropout_p);
  }
  problem.dropout = args.dropout_p > 0.0f;
  if (args.alibi_slopes) {
    check_table("alibi_slopes", args.alibi_slopes, Dtype::f32, {problem.heads_q}, "[heads_q]",
                problem.device);
    problem.alibi = true;
  }
  problem.backward = args.needs_backward;
  return problem;
}

}  // namespace sotto

// What a legal AppendKvArgs is.
#include "core/element.h"
#include "core/validate.h"

namespace sotto::core {
namespace {

struct NewTokens {
  TokenShape shape;
  std::int64_t page_size = 0;
  Device device;
};

void check_new(std::string_view argument, const Tensor& tensor, const NewTokens& tokens) {
  check_dtype(argument, tensor, {Dtype::f32, Dtype::f16, Dtype::bf16});
  check_device(argument, tensor, tokens.device);
  check_contiguous_last(argument, tensor);
  check_memory(argument, tensor, Access::read);
}

// One of the two caches and its scale.
void check_cache(std::string_view argument, std::string_view scale_argument, const Tensor& cache,
                 const Scale& scale, std::int64_t dim, const AppendKvArgs& args,
                 const NewTokens& tokens) {
  check_present(argument, cache);
  check_rank(argument, cache, 4);
  if (cache.size(2) != tokens.shape.heads || cache.size(3) != dim) {
    fail(argument, "shape must be [{}, {}, {}, {}], got {}", args.page_table ? "pages" : "rows",
         args.page_table ? "page_size" : "capacity", tokens.shape.heads, dim, to_string(cache));
  }
  if (!args.page_table && !args.batch_idx && cache.size(0) != tokens.shape.batch) {
    fail(argument, "must have a row for each of {} sequences (or name rows by batch_idx), got {}",
         tokens.shape.batch, to_string(cache));
  }
  check_device(argument, cache, tokens.device);
  check_contiguous_last(argument, cache);
  check_memory(argument, cache, Access::write);
  if (!is_quantized(cache.dtype)) {
    if (scale) {
      fail(scale_argument, "is for an 8-bit cache, but {} is {}", argument,
           dtype_name(cache.dtype));
    }
    return;
  }
  if (!scale) {
    if (cache.dtype == Dtype::i8) {
      fail(scale_argument, "is required for INT8 data: it has no natural scale");
    }
    return;
  }
  if (scale.granularity == Granularity::block) {
    fail(scale_argument,
         "must be per tensor, per head (given) or per token (written): a block's "
         "scale would have to be known before its last token is");
  }
  // Scales lie beside the cache: a dense cache's are [rows, capacity, heads].
  TokenShape cached = tokens.shape;
  cached.packed = false;
  cached.len = cache.size(1);
  cached.dim = dim;
  check_scale(scale,
              {.argument = scale_argument,
               .tokens = cached,
               .heads_kv = tokens.shape.heads,
               .page_size = args.page_table ? cache.size(1) : 0,
               .pages = cache.size(0),
               .rows = cache.size(0),
               .device = tokens.device,
               .access = scale.granularity == Granularity::token ? Access::write : Access::read});
}

}  // namespace

void check(const AppendKvArgs& args) {
  NewTokens tokens;
  tokens.shape = token_shape("k", args.k, args.cu_seqlens, "cu_seqlens");
  tokens.device = args.k.device;
  const TokenShape v = token_shape("v", args.v, args.cu_seqlens, "cu_seqlens");
  if (args.k_cache.rank == 4 && args.k_cache.size(2) != tokens.shape.heads) {
    fail("k", "must have k_cache's {} heads, got {}", args.k_cache.size(2), to_string(args.k));
  }
  if (v.batch != tokens.shape.batch || v.len != tokens.shape.len || v.heads != tokens.shape.heads) {
    fail("v", "must have k's tokens and heads, {}, got {}", to_string(args.k), to_string(args.v));
  }
  check_new("k", args.k, tokens);
  check_new("v", args.v, tokens);
  if (args.page_table && args.batch_idx) {
    fail("page_table", "cannot be combined with batch_idx");
  }
  const std::int64_t batch = tokens.shape.batch;
  check_present("k_cache", args.k_cache);
  check_present("v_cache", args.v_cache);
  check_dtype("k_cache", args.k_cache,
              {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3, Dtype::i8});
  check_dtype("v_cache", args.v_cache, {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3});
  check_cache("k_cache", "k_descale", args.k_cache, args.k_descale, tokens.shape.dim, args, tokens);
  check_cache("v_cache", "v_descale", args.v_cache, args.v_descale, v.dim, args, tokens);
  check_apart("v_cache", args.v_cache, "k_cache", args.k_cache);
  for (int d = 0; d < 2; ++d) {
    if (args.v_cache.size(d) != args.k_cache.size(d)) {
      fail("v_cache", "dimension {} must be {}, as k_cache's, got {}", d, args.k_cache.size(d),
           to_string(args.v_cache));
    }
  }
  check_present("cache_seqlens", args.cache_seqlens);
  check_table("cache_seqlens", args.cache_seqlens, Dtype::i32, {batch}, "[batch]", tokens.device);
  if (args.page_table) {
    check_rank("page_table", args.page_table, 2);
    check_table("page_table", args.page_table, Dtype::i32, {batch, args.page_table.size(1)},
                "[batch, pages per sequence]", tokens.device);
    if (args.k_cache.size(1) < 1) {
      fail("k_cache", "page size must be at least 1, got {}", to_string(args.k_cache));
    }
  }
  if (args.batch_idx) {
    check_table("batch_idx", args.batch_idx, Dtype::i32, {batch}, "[batch]", tokens.device);
  }
  check_rope(args.rope, tokens.shape, tokens.device);
  const auto mean = [&](std::string_view argument, const Tensor& tensor, std::int64_t dim) {
    if (!tensor) return;
    check_table(argument, tensor, Dtype::f32, {batch, tokens.shape.heads, dim},
                "[batch, heads_kv, dim]", tokens.device);
  };
  mean("k_mean", args.k_mean, tokens.shape.dim);
  mean("v_mean", args.v_mean, v.dim);
}

}  // namespace sotto::core

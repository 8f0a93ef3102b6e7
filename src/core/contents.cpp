// What the data of host tensors tells. Nothing here looks at device memory.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/geometry.h"
#include "core/validate.h"

namespace sotto::core {
namespace {

bool on_host(const Tensor& tensor) { return tensor && tensor.device.type == DeviceType::cpu; }

std::int64_t sequence_length(const TokenShape& tokens, const Tensor& cu_seqlens, std::int64_t b) {
  return tokens.packed ? int_at(cu_seqlens, b + 1) - int_at(cu_seqlens, b) : tokens.len;
}

std::int64_t saturating_product(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::int64_t>::max()
                                                : product;
}

// The pages that hold tokens [0, len) of sequence b.
void check_pages(std::string_view argument, const Tensor& table, std::int64_t b, std::int64_t len,
                 std::int64_t page_size, std::int64_t pages) {
  const auto* row = static_cast<const std::int32_t*>(table.data) + b * table.stride(0);
  const std::int64_t used = ceil_div(len, page_size);
  for (std::int64_t i = 0; i < used; ++i) {
    const std::int64_t page = row[i * table.stride(1)];
    if (page < 0 || page >= pages) {
      fail(argument, "entry [{}, {}] must lie in [0, {}), got {}", b, i, pages, page);
    }
  }
}

void check_batch_idx(std::string_view argument, const Tensor& batch_idx, std::int64_t rows) {
  if (!on_host(batch_idx)) return;
  for (std::int64_t b = 0; b < batch_idx.size(0); ++b) {
    const std::int64_t row = int_at(batch_idx, b);
    if (row < 0 || row >= rows) {
      fail(argument, "entry {} must lie in [0, {}), the cache's rows, got {}", b, rows, row);
    }
  }
}

// Rows or pages that are written, from several threads.
void check_distinct(std::string_view argument, std::string_view what,
                    std::vector<std::int64_t> written) {
  std::sort(written.begin(), written.end());
  const auto twice = std::adjacent_find(written.begin(), written.end());
  if (twice != written.end()) {
    fail(argument, "new tokens must not share a {}, got {} {} twice", what, what, *twice);
  }
}

}  // namespace

void check_cu_seqlens(std::string_view argument, const Tensor& cu_seqlens, std::int64_t total) {
  if (!on_host(cu_seqlens)) return;
  std::int64_t before = 0;
  for (std::int64_t b = 0; b < cu_seqlens.size(0); ++b) {
    const std::int64_t offset = int_at(cu_seqlens, b);
    if (offset < before) {
      fail(argument, "must not decrease and start at 0 or above: entry {} is {}, the one before {}",
           b, offset, before);
    }
    if (offset > total) {
      fail(argument, "entry {} must not pass the {} packed tokens, got {}", b, total, offset);
    }
    before = offset;
  }
}

void check_seqused(std::string_view argument, const Tensor& seqused, const TokenShape& tokens,
                   const Tensor& cu_seqlens) {
  if (!on_host(seqused)) return;
  for (std::int64_t b = 0; b < seqused.size(0); ++b) {
    const std::int64_t used = int_at(seqused, b);
    const std::int64_t limit = sequence_length(tokens, cu_seqlens, b);
    if (used < 0 || used > limit) {
      fail(argument, "entry {} must lie in [0, {}], got {}", b, limit, used);
    }
  }
}

void check_rope_contents(const Rope& rope, const TokenShape& tokens, const Tensor& cu_seqlens,
                         const Tensor& seqused) {
  if (!rope || !on_host(rope.cos)) return;
  const std::int64_t rows = rope.cos.size(0);
  const Tensor& positions = rope.positions;
  for (std::int64_t b = 0; b < tokens.batch; ++b) {
    const std::int64_t len = seqused ? int_at(seqused, b) : sequence_length(tokens, cu_seqlens, b);
    if (!positions) {
      if (len > rows) {
        fail("rope.cos", "must have a row for each of {} positions, got {}", len, rows);
      }
      continue;
    }
    const bool packed = positions.rank == 1;
    const std::int64_t first = packed ? int_at(cu_seqlens, b) * positions.stride(0)
                               : positions.size(0) == 1 ? 0
                                                        : b * positions.stride(0);
    const std::int64_t stride = positions.stride(packed ? 0 : 1);
    for (std::int64_t token = 0; token < len; ++token) {
      const std::int64_t p =
          static_cast<const std::int32_t*>(positions.data)[first + token * stride];
      if (p < 0 || p >= rows) {
        fail("rope.positions", "must lie in [0, {}), the rows of rope.cos, got {}", rows, p);
      }
    }
  }
}

void check_cu_blocks(std::string_view argument, const Scale& scale, const Tensor& cu_seqlens,
                     std::int64_t batch) {
  if (!scale || scale.granularity != Granularity::block || !on_host(scale.cu_blocks)) return;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t begin = int_at(scale.cu_blocks, b), end = int_at(scale.cu_blocks, b + 1);
    const std::int64_t len = int_at(cu_seqlens, b + 1) - int_at(cu_seqlens, b);
    const std::int64_t needed = ceil_div(len, scale.block);
    if (begin < 0 || end - begin < needed || end > scale.values.size(1)) {
      fail(std::string(argument) + ".cu_blocks",
           "sequence {} of {} tokens needs {} blocks within [0, {}], got [{}, {})", b, len, needed,
           scale.values.size(1), begin, end);
    }
  }
}

void check_output_contents(const OutputQuant& output) {
  if (!on_host(output.scale)) return;
  const float scale = *static_cast<const float*>(output.scale.data);
  if (!(scale > 0.0f) || !std::isfinite(scale)) {
    fail("output.scale", "must be positive and finite, got {}", scale);
  }
}

void check_contents(const AttentionArgs& args, const Problem& problem) {
  if (problem.device.type != DeviceType::cpu) return;
  const Sequences& seq = args.seq;
  const TokenShape q{.batch = problem.batch,
                     .len = problem.len_q,
                     .rows = problem.rows_q,
                     .packed = problem.packed_q};
  const TokenShape k{.batch = problem.batch, .len = problem.len_k, .packed = problem.packed_k};
  if (problem.packed_q) check_cu_seqlens("seq.cu_seqlens_q", seq.cu_seqlens_q, problem.rows_q);
  if (problem.packed_k) check_cu_seqlens("seq.cu_seqlens_k", seq.cu_seqlens_k, args.k.size(0));
  check_seqused("seq.seqused_q", seq.seqused_q, q, seq.cu_seqlens_q);
  check_seqused("seq.seqused_k", seq.seqused_k, k, seq.cu_seqlens_k);
  check_batch_idx("cache.batch_idx", args.cache.batch_idx, args.k.size(0));
  const auto check_longest = [&](std::string_view name, const Tensor& cu, std::int64_t longest) {
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      if (const std::int64_t len = int_at(cu, b + 1) - int_at(cu, b); len > longest) {
        fail(name, "sequence {} has {} tokens, more than the {} that were announced", b, len,
             longest);
      }
    }
  };
  if (problem.packed_q) check_longest("seq.max_len_q", seq.cu_seqlens_q, problem.len_q);
  if (problem.packed_k) check_longest("seq.max_len_k", seq.cu_seqlens_k, problem.len_k);
  if (problem.page_size > 0) {
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const std::int64_t len = problem.seqused_k ? int_at(seq.seqused_k, b) : problem.len_k;
      check_pages("cache.page_table", args.cache.page_table, b, len, problem.page_size,
                  args.k.size(0));
    }
  }
  if (problem.packed_q)
    check_cu_blocks("descale.q", args.descale.q, seq.cu_seqlens_q, problem.batch);
  if (problem.packed_k) {
    check_cu_blocks("descale.k", args.descale.k, seq.cu_seqlens_k, problem.batch);
    check_cu_blocks("descale.v", args.descale.v, seq.cu_seqlens_k, problem.batch);
  }
  check_output_contents(args.output);
}

void check_contents(const QuantizeArgs& args) {
  if (args.x.device.type != DeviceType::cpu) return;
  const TokenShape tokens = token_shape("x", args.x, args.cu_seqlens, "cu_seqlens");
  if (tokens.packed) check_cu_seqlens("cu_seqlens", args.cu_seqlens, tokens.rows);
  check_seqused("seqused", args.seqused, tokens, args.cu_seqlens);
  check_rope_contents(args.rope, tokens, args.cu_seqlens, args.seqused);
  if (tokens.packed) check_cu_blocks("descale", args.descale, args.cu_seqlens, tokens.batch);
}

void check_contents(const ChannelMeanArgs& args) {
  if (args.x.device.type != DeviceType::cpu) return;
  const TokenShape tokens = token_shape("x", args.x, args.cu_seqlens, "cu_seqlens");
  if (tokens.packed) check_cu_seqlens("cu_seqlens", args.cu_seqlens, tokens.rows);
  check_seqused("seqused", args.seqused, tokens, args.cu_seqlens);
  check_rope_contents(args.rope, tokens, args.cu_seqlens, args.seqused);
  if (tokens.packed) check_cu_blocks("descale", args.descale, args.cu_seqlens, tokens.batch);
}

void check_contents(const AppendKvArgs& args) {
  if (args.k.device.type != DeviceType::cpu) return;
  const TokenShape tokens = token_shape("k", args.k, args.cu_seqlens, "cu_seqlens");
  if (tokens.packed) check_cu_seqlens("cu_seqlens", args.cu_seqlens, tokens.rows);
  check_batch_idx("batch_idx", args.batch_idx, args.k_cache.size(0));
  const bool paged = static_cast<bool>(args.page_table);
  const std::int64_t capacity =
      paged ? saturating_product(args.page_table.size(1), args.k_cache.size(1))
            : args.k_cache.size(1);
  std::vector<std::int64_t> written;
  for (std::int64_t b = 0; b < tokens.batch; ++b) {
    const std::int64_t before = int_at(args.cache_seqlens, b);
    const std::int64_t added = sequence_length(tokens, args.cu_seqlens, b);
    if (before < 0 || before + added > capacity) {
      fail("cache_seqlens", "sequence {} has {} tokens and gets {} more, but must lie in [0, {}]",
           b, before, added, capacity);
    }
    if (added == 0) continue;
    if (paged) {
      check_pages("page_table", args.page_table, b, before + added, args.k_cache.size(1),
                  args.k_cache.size(0));
      const std::int64_t page_size = args.k_cache.size(1);
      for (std::int64_t slot = before / page_size; slot * page_size < before + added; ++slot) {
        written.push_back(static_cast<const std::int32_t*>(
            args.page_table
                .data)[b * args.page_table.stride(0) + slot * args.page_table.stride(1)]);
      }
    } else if (args.batch_idx) {
      written.push_back(int_at(args.batch_idx, b));
    }
    if (args.rope && !args.rope.positions && before + added > args.rope.cos.size(0)) {
      fail("rope.cos", "must have a row for each of {} positions, got {}", before + added,
           args.rope.cos.size(0));
    }
  }
  check_distinct(paged ? "page_table" : "batch_idx", paged ? "page" : "row", std::move(written));
  if (args.rope.positions) check_rope_contents(args.rope, tokens, args.cu_seqlens, {});
}

void check_contents(const MergeArgs& args) { check_output_contents(args.output); }

}  // namespace sotto::core

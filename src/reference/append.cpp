#include "core/element.h"
#include "core/scaling.h"
#include "reference/quantize.h"

namespace sotto::reference {
namespace {

// K or V, rows of `x` to rows of `cache`.
void append(const AppendKvArgs& args, const Tensor& x, const Tensor& cache, const Scale& descale,
            const Rope& rope, bool hadamard, const Tensor& mean) {
  const std::int64_t heads = x.size(x.rank - 2);
  for (std::int64_t b = 0; b < args.cache_seqlens.size(0); ++b) {
    core::Placement from, to;
    from.index = b;
    to.index = args.batch_idx ? core::int_at(args.batch_idx, b) : b;
    std::int64_t added = args.cu_seqlens ? 0 : x.size(1);
    if (args.cu_seqlens) {
      from.packed = true;
      from.begin = core::int_at(args.cu_seqlens, b);
      added = core::int_at(args.cu_seqlens, b + 1) - from.begin;
    }
    if (args.page_table) {
      to.pages =
          static_cast<const std::int32_t*>(args.page_table.data) + b * args.page_table.stride(0);
      to.page_stride = args.page_table.stride(1);
      to.page_size = cache.size(1);
    }
    const core::ScaleRows scales(descale, to, b, heads);
    for (std::int64_t token = 0; token < added; ++token) {
      const std::int64_t position = core::int_at(args.cache_seqlens, b) + token;
      for (std::int64_t head = 0; head < heads; ++head) {
        const std::vector<float> values = centered_row(
            transformed_row(x, {}, rope, hadamard, from, b, token, head, position), mean, b, head);
        if (descale && descale.granularity == Granularity::token) {
          float amax = 0.0f;
          for (float value : values) amax = std::max(amax, core::finite_magnitude(value));
          *scales.pointer(head, position) = core::scale_of(amax, largest_of(cache.dtype));
        }
        write_row(cache, core::row_offset(cache, to, position, head), values,
                  scales.at(head, position));
      }
    }
  }
}

}  // namespace

void append_kv(const AppendKvArgs& args) {
  append(args, args.k, args.k_cache, args.k_descale, args.rope, args.hadamard_k, args.k_mean);
  append(args, args.v, args.v_cache, args.v_descale, {}, args.hadamard_v, args.v_mean);
}

}  // namespace sotto::reference

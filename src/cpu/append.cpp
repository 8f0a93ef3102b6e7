#include "cpu/append.h"

#include <algorithm>

#include "core/element.h"
#include "core/parallel.h"
#include "core/scaling.h"
#include "cpu/round_rows.h"
#include "cpu/rows.h"

namespace sotto::cpu {
namespace {

core::Placement cache_placement(const AppendKvArgs& args, std::int64_t sequence) {
  core::Placement place;
  place.index = args.batch_idx ? core::int_at(args.batch_idx, sequence) : sequence;
  if (const Tensor& table = args.page_table) {
    place.pages = static_cast<const std::int32_t*>(table.data) + sequence * table.stride(0);
    place.page_stride = table.stride(1);
    place.page_size = args.k_cache.size(1);
  }
  return place;
}

// K or V on its way into its cache.
class Appender {
 public:
  Appender(const AppendKvArgs& args, const Tensor& x, const Tensor& cache, const Scale& descale,
           const Rope& rope, bool hadamard, const Tensor& mean)
      : args_(args),
        cache_(cache),
        descale_(descale),
        heads_(heads_of(x)),
        dim_(dim_of(x)),
        panels_(x, args.cu_seqlens, {}),
        reader_(x, rope, hadamard, mean) {}

  std::int64_t panels() const { return panels_.count(); }

  void append(std::int64_t i) const {
    const Panel panel = panels_.at(i);
    if (panel.empty()) return;
    const std::int64_t sequence = panel.sequence.index;
    const std::int64_t position = core::int_at(args_.cache_seqlens, sequence) + panel.begin;
    const core::Placement place = cache_placement(args_, sequence);
    RowCounts counts = panel.counts(dim_);
    PanelBuffer buffer;
    RowGrid rows = reader_.read(panel, position, buffer);
    const bool quantizes = core::is_quantized(cache_.dtype);
    if (quantizes) {
      find_scales({descale_, place, sequence, heads_}, panel, position, buffer);
    }
    // Page by page.
    for (std::int64_t token = 0; token < panel.end - panel.begin; token += counts.tokens) {
      counts.tokens = panel.end - panel.begin - token;
      if (place.pages != nullptr) {
        const std::int64_t left = place.page_size - (position + token) % place.page_size;
        counts.tokens = std::min(counts.tokens, left);
      }
      const std::int64_t r = token * counts.heads;
      RowGrid part = rows;
      part.data += token * rows.token_stride;
      round_rows(part, counts, {buffer.amax + r, buffer.finite + r},
                 quantizes ? buffer.descale + r : nullptr,
                 rows_of(cache_, place, position + token, panel.head_begin));
    }
  }

 private:
  // The scale of each row: written for each token, else the same for all tokens.
  void find_scales(const core::ScaleRows& scales, const Panel& panel, std::int64_t position,
                   PanelBuffer& buffer) const {
    const RowCounts counts = panel.counts(dim_);
    if (!descale_ || descale_.granularity != Granularity::token) {
      for (std::int64_t r = 0; r < counts.heads; ++r) {
        buffer.descale[r] = scales.at(panel.head_begin + r, position);
      }
      for (std::int64_t r = counts.heads; r < counts.rows(); ++r) {
        buffer.descale[r] = buffer.descale[r - counts.heads];
      }
      return;
    }
    const float largest = cache_.dtype == Dtype::i8 ? core::kInt8Max : e4m3::kMax;
    const std::int64_t stride = descale_.values.stride(descale_.values.rank - 1);
    for (std::int64_t r = 0; r < counts.rows(); ++position) {
      float* scale = scales.pointer(panel.head_begin, position);
      for (const std::int64_t end = r + counts.heads; r < end; ++r, scale += stride) {
        *scale = buffer.descale[r] = core::scale_of(buffer.amax[r], largest);
      }
    }
  }

  const AppendKvArgs& args_;
  const Tensor& cache_;
  const Scale& descale_;
  std::int64_t heads_, dim_;
  Panels panels_;
  RowReader reader_;
};

}  // namespace

void append_kv(const AppendKvArgs& args) {
  const Appender k(args, args.k, args.k_cache, args.k_descale, args.rope, args.hadamard_k,
                   args.k_mean);
  const Appender v(args, args.v, args.v_cache, args.v_descale, {}, args.hadamard_v, args.v_mean);
  core::parallel_for(k.panels() + v.panels(), [&](std::int64_t i) {
    i < k.panels() ? k.append(i) : v.append(i - k.panels());
  });
}

}  // namespace sotto::cpu

#include "cpu/quantize.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/element.h"
#include "core/parallel.h"
#include "core/scaling.h"
#include "cpu/reduce_rows.h"
#include "cpu/round_rows.h"
#include "cpu/rows.h"

namespace sotto::cpu {
namespace {

// Calls f with a reference to each element of a float tensor.
template <class F>
void for_each_value(const Tensor& tensor, F&& f, int dimension = 0, std::int64_t offset = 0) {
  float* data = static_cast<float*>(tensor.data) + offset;
  const std::int64_t size = tensor.size(dimension), stride = tensor.stride(dimension);
  for (std::int64_t i = 0; i < size; ++i) {
    if (dimension + 1 == tensor.rank) {
      f(data[i * stride]);
    } else {
      for_each_value(tensor, f, dimension + 1, offset + i * stride);
    }
  }
}

// An atomic maximum: panels of one share meet here, in any order with the same result.
void raise_to(float& largest_so_far, float candidate) {
  std::atomic_ref<float> largest(largest_so_far);
  float seen = largest.load(std::memory_order_relaxed);
  while (candidate > seen &&
         !largest.compare_exchange_weak(seen, candidate, std::memory_order_relaxed)) {
  }
}

// Tokens whose rows share scales with no others: none where scales span sequences or heads.
std::int64_t tokens_per_scale(const Scale& scale) {
  return scale && scale.granularity == Granularity::block ? scale.block : 1;
}

class Quantizer {
 public:
  explicit Quantizer(const QuantizeArgs& args)
      : args_(args),
        heads_(heads_of(args.x)),
        dim_(dim_of(args.x)),
        largest_(args.out.dtype == Dtype::i8 ? core::kInt8Max : e4m3::kMax),
        panels_hold_shares_((args.descale.granularity == Granularity::token ||
                             args.descale.granularity == Granularity::block) &&
                            Panels::fits(tokens_per_scale(args.descale), dim_)),
        scale_stride_(args.descale.granularity == Granularity::token
                          ? args.descale.values.stride(args.descale.values.rank - 1)
                          : args.descale.values.stride(std::max(0, args.descale.values.rank - 2))),
        centers_late_(args.dot && args.dot_before_mean && args.mean),
        reader_(args.x, args.rope, args.hadamard, centers_late_ ? Tensor() : args.mean) {}

  void run() const;

 private:
  float scale_of(float amax) const;
  core::ScaleRows scales_of(const Panel& panel) const {
    return {args_.descale, panel.sequence.place, panel.sequence.index, heads_};
  }
  RowGrid read(const Panel& panel, PanelBuffer& buffer, bool with_dots) const;
  // Collects the panel's amax in the scales' own memory.
  void find_amax(const Panel& panel) const;
  void write(const Panel& panel) const;
  // The scale of each row of the panel: of its share's amax, or as it stands.
  void find_scales(const Panel& panel, PanelBuffer& buffer) const;
  void write_dots(const Panel& panel, const float* rows) const;
  void write_zeros(const Panel& panel) const;

  const QuantizeArgs& args_;
  std::int64_t heads_, dim_;
  float largest_;
  bool panels_hold_shares_;    // each scale can be found from one panel
  std::int64_t scale_stride_;  // between the heads' scales then
  bool centers_late_;
  RowReader reader_;
};

// The largest magnitude of each scale's share must be known before the first of its elements is
// rounded. Where a panel holds whole shares its rows are at hand then; else all rows are read and
// transformed twice.
void Quantizer::run() const {
  const Tensor& values = args_.descale.values;
  const Panels panels(args_.x, args_.cu_seqlens, args_.seqused,
                      panels_hold_shares_ ? tokens_per_scale(args_.descale) : 1);
  const auto for_each_panel = [&](auto&& f) {
    core::parallel_for(panels.count(), [&](std::int64_t i) { f(panels.at(i)); });
  };
  if (values) {
    const float before = panels_hold_shares_ ? 1.0f : 0.0f;
    for_each_value(values, [&](float& scale) { scale = before; });
    if (!panels_hold_shares_) {
      for_each_panel([&](const Panel& panel) { find_amax(panel); });
      for_each_value(values, [&](float& scale) { scale = scale_of(scale); });
    }
  }
  for_each_panel([&](const Panel& panel) { write(panel); });
}

float Quantizer::scale_of(float amax) const {
  const float scale = core::scale_of(amax, largest_);
  return args_.power_of_two ? core::round_up_to_power_of_two(scale) : scale;
}

// The part of a panel whose tokens count.
Panel valid_part(Panel panel) {
  panel.end = std::min(panel.end, panel.sequence.len);
  return panel;
}

RowGrid Quantizer::read(const Panel& panel, PanelBuffer& buffer, bool with_dots) const {
  if (!args_.dot) return reader_.read(panel, panel.begin, buffer);
  const RowGrid rows = reader_.read_floats(panel, panel.begin, buffer);
  if (with_dots) write_dots(panel, buffer.rows);
  if (centers_late_) {
    center_rows(buffer.rows, panel.counts(dim_),
                head_rows(args_.mean, panel.sequence.index, panel.head_begin), buffer.ranges());
  }
  return rows;
}

void Quantizer::find_amax(const Panel& whole_panel) const {
  const Panel panel = valid_part(whole_panel);
  if (panel.empty()) return;
  PanelBuffer buffer;
  read(panel, buffer, false);
  const core::ScaleRows scales = scales_of(panel);
  const RowCounts counts = panel.counts(dim_);
  for (std::int64_t run = panel.begin, run_end = 0; run < panel.end; run = run_end) {
    run_end = scales.run_end(run, panel.end);
    for (std::int64_t head = 0; head < counts.heads; ++head) {
      float amax = 0.0f;
      for (std::int64_t token = run; token < run_end; ++token) {
        amax = std::max(amax, buffer.amax[(token - panel.begin) * counts.heads + head]);
      }
      raise_to(*scales.pointer(panel.head_begin + head, run), amax);
    }
  }
}

void Quantizer::write(const Panel& whole_panel) const {
  const Panel panel = valid_part(whole_panel);
  if (!panel.empty()) {
    PanelBuffer buffer;
    const RowGrid rows = read(panel, buffer, true);
    const auto rows_to = [&](const Tensor& tensor) {
      return tensor ? rows_of(tensor, panel.sequence.place, panel.begin, panel.head_begin)
                    : RowGrid();
    };
    if (args_.descale) find_scales(panel, buffer);
    round_rows(rows, panel.counts(dim_), buffer.ranges(), args_.descale ? buffer.descale : nullptr,
               rows_to(args_.out), rows_to(args_.out_lo));
  }
  Panel rest = whole_panel;
  rest.begin = std::max(rest.begin, rest.sequence.len);
  if (!rest.empty()) write_zeros(rest);
}

void Quantizer::find_scales(const Panel& panel, PanelBuffer& buffer) const {
  const core::ScaleRows scales = scales_of(panel);
  const std::int64_t heads = panel.counts(dim_).heads;
  for (std::int64_t run = panel.begin, run_end = 0; run < panel.end; run = run_end) {
    run_end = scales.run_end(run, panel.end);
    float* first = buffer.descale + (run - panel.begin) * heads;
    float* end = buffer.descale + (run_end - panel.begin) * heads;
    if (panels_hold_shares_) {
      const float* amax = buffer.amax + (run - panel.begin) * heads;
      for (std::int64_t head = 0; head < heads; ++head) {
        float largest = 0.0f;
        for (std::int64_t r = head; r < end - first; r += heads) {
          largest = std::max(largest, amax[r]);
        }
        first[head] = largest;
      }
      float* scale = scales.pointer(panel.head_begin, run);
      for (std::int64_t head = 0; head < heads; ++head, scale += scale_stride_) {
        *scale = first[head] = scale_of(first[head]);
      }
    } else {
      for (std::int64_t head = 0; head < heads; ++head) {
        first[head] = scales.at(panel.head_begin + head, run);
      }
    }
    for (float* token = first + heads; token < end; token += heads) {
      std::copy_n(first, heads, token);
    }
  }
}

// rows null: tokens that do not count.
void Quantizer::write_dots(const Panel& panel, const float* rows) const {
  const TokenSequence& sequence = panel.sequence;
  const std::int64_t heads_with = args_.dot_with.size(1);
  const std::int64_t dots = std::max<std::int64_t>(1, heads_with / heads_);  // of each of x's heads
  const std::int64_t sharing = std::max<std::int64_t>(1, heads_ / heads_with);
  const std::int64_t heads = panel.counts(dim_).heads;
  float* out = static_cast<float*>(args_.dot.data);
  for (std::int64_t dot = panel.head_begin * dots; dot < panel.head_end * dots; ++dot) {
    float buffer[kMaxDim];
    const float* with =
        contiguous_row(head_rows(args_.dot_with, sequence.index, dot / sharing), 0, dim_, buffer);
    for (std::int64_t token = panel.begin; token < panel.end; ++token) {
      const std::int64_t r = (token - panel.begin) * heads + dot / dots - panel.head_begin;
      out[core::head_major_offset(args_.dot, sequence.place, sequence.index, dot, token)] =
          rows == nullptr ? 0.0f : dot_row(rows + r * dim_, with, dim_, args_.dot_scale);
    }
  }
}

void Quantizer::write_zeros(const Panel& panel) const {
  for (const Tensor* tensor : {&args_.out, &args_.out_lo}) {
    if (!*tensor) continue;
    const RowGrid rows = rows_of(*tensor, panel.sequence.place, panel.begin, panel.head_begin);
    const RowCounts counts = panel.counts(dim_);
    for (std::int64_t token = 0; token < counts.tokens; ++token) {
      for (std::int64_t head = 0; head < counts.heads; ++head) {
        std::memset(rows.row(token, head), 0,
                    static_cast<std::size_t>(dim_ * dtype_size(tensor->dtype)));
      }
    }
  }
  if (args_.dot) write_dots(panel, nullptr);
}

}  // namespace

void quantize(const QuantizeArgs& args) { Quantizer(args).run(); }

}  // namespace sotto::cpu

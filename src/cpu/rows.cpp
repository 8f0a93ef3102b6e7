#include "cpu/rows.h"

#include "core/element.h"
#include "cpu/reduce_rows.h"

namespace sotto::cpu {
namespace {

// A panel's rows as floats, where there is a choice: they stay in the first-level cache.
constexpr std::int64_t kFloatsPerPanel = 4096;

// Whether a head's tokens lie closer together than a token's heads.
bool is_head_major(const Tensor& x) { return x.stride(x.rank - 2) > x.stride(x.rank - 3); }

}  // namespace

TokenSequence token_sequence(const Tensor& x, const Tensor& cu_seqlens, const Tensor& seqused,
                             std::int64_t index) {
  TokenSequence s;
  s.index = s.place.index = index;
  s.rows = x.size(1);
  if (cu_seqlens) {
    s.place.packed = true;
    s.place.begin = core::int_at(cu_seqlens, index);
    s.rows = core::int_at(cu_seqlens, index + 1) - s.place.begin;
  }
  s.len = seqused ? core::int_at(seqused, index) : s.rows;
  return s;
}

RowGrid rows_of(const Tensor& x, const core::Placement& place, std::int64_t token,
                std::int64_t head) {
  const std::int64_t bytes = dtype_size(x.dtype);
  return {x.dtype, x.at(core::row_offset(x, place, token, head)), x.stride(x.rank - 3) * bytes,
          x.stride(x.rank - 2) * bytes};
}

HeadRows head_rows(const Tensor& tensor, std::int64_t batch, std::int64_t head) {
  if (!tensor) return {};
  const auto* data = static_cast<const float*>(tensor.data);
  return {data + batch * tensor.stride(0) + head * tensor.stride(1), tensor.stride(1),
          tensor.stride(2)};
}

Panels::Panels(const Tensor& x, const Tensor& cu_seqlens, const Tensor& seqused, std::int64_t unit)
    : x_(x), cu_seqlens_(cu_seqlens), seqused_(seqused) {
  batch_ = cu_seqlens ? cu_seqlens.size(0) - 1 : x.size(0);
  heads_ = heads_of(x);
  const std::int64_t rows = std::clamp<std::int64_t>(
      kFloatsPerPanel / std::max<std::int64_t>(1, dim_of(x)), 1, PanelBuffer::kRows);
  heads_per_panel_ = is_head_major(x) ? 1 : std::clamp<std::int64_t>(rows / unit, 1, heads_);
  tokens_per_panel_ = std::max<std::int64_t>(1, rows / (heads_per_panel_ * unit)) * unit;
  head_panels_ = core::ceil_div(heads_, heads_per_panel_);
}

bool Panels::fits(std::int64_t unit, std::int64_t dim) {
  return unit <= PanelBuffer::kRows && unit * dim <= PanelBuffer::kFloats;
}

// As many for each sequence as its tokens could need wherever they begin: no sequence's number
// depends on the lengths before it but for their sum.
std::int64_t Panels::first(std::int64_t sequence) const {
  const std::int64_t tokens_before =
      cu_seqlens_ ? core::int_at(cu_seqlens_, sequence) - core::int_at(cu_seqlens_, 0)
                  : sequence * x_.size(1);
  return (tokens_before / tokens_per_panel_ + sequence) * head_panels_;
}

Panel Panels::at(std::int64_t i) const {
  std::int64_t sequence = 0, after = batch_;  // the last one with first(sequence) <= i
  while (after - sequence > 1) {
    const std::int64_t middle = sequence + (after - sequence) / 2;
    (first(middle) <= i ? sequence : after) = middle;
  }
  const std::int64_t within = i - first(sequence);
  Panel panel;
  panel.sequence = token_sequence(x_, cu_seqlens_, seqused_, sequence);
  panel.begin = std::min(within / head_panels_ * tokens_per_panel_, panel.sequence.rows);
  panel.end = std::min(panel.begin + tokens_per_panel_, panel.sequence.rows);
  panel.head_begin = within % head_panels_ * heads_per_panel_;
  panel.head_end = std::min(panel.head_begin + heads_per_panel_, heads_);
  return panel;
}

RowGrid RowReader::read(const Panel& panel, std::int64_t position, PanelBuffer& buffer) const {
  const RowCounts counts = panel.counts(dim_of(x_));
  const RowGrid rows = rows_of(x_, panel.sequence.place, panel.begin, panel.head_begin);
  // Many scattered rows would not stay in the caches until they are read again: those have few
  // places for addresses that are a power of two apart.
  const bool scattered = counts.tokens > 16 &&
                         rows.token_stride > 2 * counts.heads * counts.dim * dtype_size(x_.dtype);
  if (rope_ || hadamard_ || mean_ || core::is_quantized(x_.dtype) || scattered) {
    return read_floats(panel, position, buffer);
  }
  measure_rows(rows, counts, buffer.ranges());
  return rows;
}

RowGrid RowReader::read_floats(const Panel& panel, std::int64_t position,
                               PanelBuffer& buffer) const {
  const TokenSequence& sequence = panel.sequence;
  const RowCounts counts = panel.counts(dim_of(x_));
  RowTransform transform;
  if (rope_) transform.rope = rope_rows(panel, position);
  transform.hadamard = hadamard_;
  transform.mean = head_rows(mean_, sequence.index, panel.head_begin);
  if (descale_) {
    const core::ScaleRows scales(descale_, sequence.place, sequence.index, heads_of(x_));
    for (std::int64_t r = 0; r < counts.rows(); ++r) {
      buffer.descale[r] =
          scales.at(panel.head_begin + r % counts.heads, panel.begin + r / counts.heads);
    }
    transform.descale = buffer.descale;
  }
  transform_rows(rows_of(x_, sequence.place, panel.begin, panel.head_begin), counts, transform,
                 buffer.rows, buffer.ranges());
  return contiguous_rows(buffer.rows, counts);
}

RopeRows RowReader::rope_rows(const Panel& panel, std::int64_t position) const {
  const core::Placement& place = panel.sequence.place;
  RopeRows rope;
  rope.cos = static_cast<const float*>(rope_.cos.data);
  rope.sin = static_cast<const float*>(rope_.sin.data);
  rope.cos_row_stride = rope_.cos.stride(0);
  rope.sin_row_stride = rope_.sin.stride(0);
  rope.cos_stride = rope_.cos.stride(1);
  rope.sin_stride = rope_.sin.stride(1);
  const std::int64_t rotary_dim = rope_.rotary_dim == 0 ? dim_of(x_) : rope_.rotary_dim;
  rope.pairs = rotary_dim / 2;
  rope.interleaved = rope_.interleaved;
  rope.per_channel = rope_.cos.size(1) == rotary_dim;
  rope.first_position = position;
  if (const Tensor& positions = rope_.positions) {
    const std::int64_t batch = positions.size(0) == 1 ? 0 : panel.sequence.index;
    rope.position_stride = positions.stride(positions.rank - 1);
    rope.positions =
        static_cast<const std::int32_t*>(positions.data) +
        (place.packed ? (place.begin + panel.begin) * positions.stride(0)
                      : batch * positions.stride(0) + panel.begin * positions.stride(1));
  }
  return rope;
}

}  // namespace sotto::cpu

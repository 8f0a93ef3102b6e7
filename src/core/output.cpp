#include "core/output.h"

#include <algorithm>

#include "core/element.h"
#include "core/scaling.h"

namespace sotto::core {
namespace {

float amax_of(const float* x, std::int64_t n) {
  float amax = 0.0f;
  for (std::int64_t i = 0; i < n; ++i) amax = std::max(amax, finite_magnitude(x[i]));
  return amax;
}

constexpr std::int64_t kNvfp4Group = 16;

}  // namespace

std::int64_t swizzled_scale_offset(std::int64_t row, std::int64_t column, std::int64_t columns) {
  return (row / 128 * (columns / 4) + column / 4) * 512 + row % 32 * 16 + row / 32 % 4 * 4 +
         column % 4;
}

OutputFormat output_format(const Tensor& out, const OutputQuant& output, std::int64_t row) {
  if (out.dtype == Dtype::e2m1x2) return {OutputKind::nvfp4, kNvfp4Group};
  if (out.dtype != Dtype::e4m3) return {};
  if (output.scale) return {OutputKind::fp8, 0};
  return {OutputKind::fp8_groups, row / output.group_scale.size(1)};
}

OutputWriter::OutputWriter(const Tensor& out, const OutputQuant& output, OutputKind kind,
                           std::int64_t group)
    : out_(out), group_scale_(output.group_scale), kind_(kind), group_(group) {
  if (output.scale) scale_ = *static_cast<const float*>(output.scale.data);
}

void OutputWriter::write_padding() const {
  if (kind_ != OutputKind::nvfp4) return;
  std::fill_n(static_cast<std::byte*>(group_scale_.data), group_scale_.numel(), std::byte{0});
}

void OutputWriter::write(const Placement& place, std::int64_t token, std::int64_t row,
                         std::int64_t head, std::int64_t dim_v, const float* o) const {
  std::byte* out = out_.at(row_offset(out_, place, token, head));
  switch (kind_) {
    case OutputKind::plain:
      with_element_type(out_.dtype, [&]<class T>(T) {
        T* row_out = reinterpret_cast<T*>(out);
        for (std::int64_t i = 0; i < dim_v; ++i) row_out[i] = static_cast<T>(o[i]);
      });
      return;
    case OutputKind::fp8: {
      e4m3* row_out = reinterpret_cast<e4m3*>(out);
      for (std::int64_t i = 0; i < dim_v; ++i) row_out[i] = e4m3(o[i] / scale_);
      return;
    }
    case OutputKind::fp8_groups:
      return write_groups(out, row, head, dim_v, o);
    case OutputKind::nvfp4:
      return write_nvfp4(out, row, head, dim_v, o);
  }
}

void OutputWriter::write_groups(std::byte* out, std::int64_t row, std::int64_t head,
                                std::int64_t dim_v, const float* o) const {
  e4m3* row_out = reinterpret_cast<e4m3*>(out);
  for (std::int64_t begin = 0; begin < dim_v; begin += group_) {
    float scale = scale_of(amax_of(o + begin, group_), e4m3::kMax);
    const std::int64_t column = (head * dim_v + begin) / group_;
    std::byte* scale_out =
        group_scale_.at(row * group_scale_.stride(0) + column * group_scale_.stride(1));
    if (group_scale_.dtype == Dtype::ue8m0) {
      const ue8m0 code = ue8m0::round_up(scale);
      scale = static_cast<float>(code);
      *reinterpret_cast<ue8m0*>(scale_out) = code;
    } else {
      *reinterpret_cast<float*>(scale_out) = scale;
    }
    for (std::int64_t i = begin; i < begin + group_; ++i) row_out[i] = e4m3(o[i] / scale);
  }
}

void OutputWriter::write_nvfp4(std::byte* out, std::int64_t row, std::int64_t head,
                               std::int64_t dim_v, const float* o) const {
  auto* row_out = reinterpret_cast<std::uint8_t*>(out);
  auto* scales = static_cast<e4m3*>(group_scale_.data);
  for (std::int64_t begin = 0; begin < dim_v; begin += kNvfp4Group) {
    const e4m3 code(scale_ * (amax_of(o + begin, kNvfp4Group) / e2m1::kMax));
    const float scale = static_cast<float>(code);
    const std::int64_t column = (head * dim_v + begin) / kNvfp4Group;
    scales[swizzled_scale_offset(row, column, group_scale_.size(1))] = code;
    const float inverse = scale > 0.0f ? scale_ / scale : 0.0f;
    for (std::int64_t i = begin; i < begin + kNvfp4Group; i += 2) {
      const std::uint8_t low = e2m1(o[i] * inverse).bits;
      const std::uint8_t high = e2m1(o[i + 1] * inverse).bits;
      row_out[i / 2] = static_cast<std::uint8_t>(low | (high << 4));
    }
  }
}

}  // namespace sotto::core

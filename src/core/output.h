// Writing rows of results: the one place that knows the output formats of OutputQuant.
#pragma once

#include <cstdint>

#include "core/geometry.h"
#include "sotto/attention.h"

namespace sotto::core {

struct OutputFormat {
  OutputKind kind{};
  std::int64_t group = 0;  // elements per scale
};

// The format that a legal `out` and `output` ask for; `row`: numbers per token, heads_q · dim_v.
OutputFormat output_format(const Tensor& out, const OutputQuant& output, std::int64_t row);

class OutputWriter {
 public:
  // Reads output.scale (one element). Call on the host that owns the tensors.
  OutputWriter(const Tensor& out, const OutputQuant& output, OutputKind kind, std::int64_t group);

  // Fills what no row covers: the padding of NVFP4's scales. Once, before any write().
  void write_padding() const;

  // o[0 … dim_v) of a head. `token` counts within the sequence that `place` describes, `row` in the
  // matrix [tokens, heads_q · dim_v]. Different (row, head) may be written from different threads.
  void write(const Placement& place, std::int64_t token, std::int64_t row, std::int64_t head,
             std::int64_t dim_v, const float* o) const;

 private:
  void write_groups(std::byte* out, std::int64_t row, std::int64_t head, std::int64_t dim_v,
                    const float* o) const;
  void write_nvfp4(std::byte* out, std::int64_t row, std::int64_t head, std::int64_t dim_v,
                   const float* o) const;

  Tensor out_, group_scale_;
  OutputKind kind_;
  std::int64_t group_;
  float scale_ = 1.0f;
};

// Offset of the scale of (row, column) in the 128x4 swizzle of a matrix with `columns` (a multiple
// of 4) scale columns.
std::int64_t swizzled_scale_offset(std::int64_t row, std::int64_t column, std::int64_t columns);

}  // namespace sotto::core

// Tensors of tokens as quantize(), channel_mean() and append_kv() walk them: sequences, cut into
// panels that fit a thread's buffer, and the panels' rows after RoPE, Hadamard and the mean.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/geometry.h"
#include "cpu/row_grid.h"
#include "cpu/transform.h"
#include "sotto/quantize.h"

namespace sotto::cpu {

struct TokenSequence {
  std::int64_t index = 0;
  core::Placement place;  // in the tensor that is read
  std::int64_t rows = 0;  // tokens that there is room for
  std::int64_t len = 0;   // of them valid
};

// Tensors as in QuantizeArgs.
TokenSequence token_sequence(const Tensor& x, const Tensor& cu_seqlens, const Tensor& seqused,
                             std::int64_t index);

inline std::int64_t heads_of(const Tensor& x) { return x.size(x.rank - 2); }
inline std::int64_t dim_of(const Tensor& x) { return x.size(x.rank - 1); }

// The rows of a tensor from (token, head) on; tokens within one page.
RowGrid rows_of(const Tensor& x, const core::Placement& place, std::int64_t token,
                std::int64_t head);

// A row of parameters for each head from `head` on, of a tensor [batch, heads, dim] or absent.
HeadRows head_rows(const Tensor& tensor, std::int64_t batch, std::int64_t head);

// Part of a sequence: tokens [begin, end) of heads [head_begin, head_end).
struct Panel {
  TokenSequence sequence;
  std::int64_t begin = 0, end = 0;
  std::int64_t head_begin = 0, head_end = 0;

  bool empty() const { return begin >= end; }
  RowCounts counts(std::int64_t dim) const { return {end - begin, head_end - head_begin, dim}; }
};

// The buffer of one panel, on the stack of the thread that works on it.
struct PanelBuffer {
  static constexpr std::int64_t kFloats = 32768;
  static constexpr std::int64_t kRows = 1024;

  alignas(64) float rows[kFloats];
  float amax[kRows];
  bool finite[kRows];
  float descale[kRows];

  RowRanges ranges() { return {amax, finite}; }
};

// All rows of a tensor of tokens, in panels.
class Panels {
 public:
  // Tensors as in QuantizeArgs. unit: tokens that share a panel, counted from the first of a
  // sequence; fits(unit).
  Panels(const Tensor& x, const Tensor& cu_seqlens, const Tensor& seqused, std::int64_t unit = 1);

  // Whether a panel can hold `unit` tokens of x.
  static bool fits(std::int64_t unit, std::int64_t dim);

  // Some panels may be empty.
  std::int64_t count() const { return first(batch_); }
  Panel at(std::int64_t i) const;

 private:
  // The first panel of a sequence.
  std::int64_t first(std::int64_t sequence) const;

  Tensor x_, cu_seqlens_, seqused_;
  std::int64_t batch_, heads_, heads_per_panel_, tokens_per_panel_, head_panels_;
};

// Reads panels of `x`, transformed.
class RowReader {
 public:
  // descale: of a quantised x.
  RowReader(const Tensor& x, const Rope& rope, bool hadamard, const Tensor& mean,
            const Scale& descale = {})
      : x_(x), rope_(rope), hadamard_(hadamard), mean_(mean), descale_(descale) {}

  // The panel's rows after RoPE, Hadamard and the subtraction: in the buffer as floats or, where
  // nothing happens to them, x's own; their ranges in the buffer. The panel's first token has row
  // `position` of RoPE's tables unless rope.positions says otherwise.
  RowGrid read(const Panel& panel, std::int64_t position, PanelBuffer& buffer) const;

  // The same, always as floats in the buffer.
  RowGrid read_floats(const Panel& panel, std::int64_t position, PanelBuffer& buffer) const;

 private:
  RopeRows rope_rows(const Panel& panel, std::int64_t position) const;

  Tensor x_;
  Rope rope_;
  bool hadamard_;
  Tensor mean_;
  Scale descale_;
};

}  // namespace sotto::cpu

// Output tensors of a case, and what is read from them. Every format is decoded from its
// definition in OutputQuant, without the library's help.
#pragma once

#include <vector>

#include "request.h"

namespace sotto::test {

void store_float(Dtype dtype, std::byte* to, float value);  // f32, f16, bf16
float load_float(Dtype dtype, const std::byte* from);       // and e4m3, i8

class OutputReader {
 public:
  OutputReader(const AttentionCase& c, const Placing& placing, Arena& arena, double amax);

  const Tensor& out() const { return out_; }
  const OutputQuant& output() const { return output_; }
  const Tensor& lse() const { return lse_; }

  // Values, and the broken rules: a group's largest number must use its scale's range, scales of
  // padding are 0, nothing is written between rows.
  Result read();

 private:
  void read_row(std::size_t b, std::int64_t i, std::int64_t head, double* o);
  double group_scale(std::int64_t row, std::int64_t column) const;
  void check_group(const double* codes, double scale);
  void check_nvfp4_padding();
  void check_gaps();
  void fault(const std::string& text);

  const AttentionCase& c_;
  const Placing& placing_;
  Tensor out_, lse_;
  OutputQuant output_;
  std::vector<std::int64_t> nvfp4_offsets_;  // of [row][column] in the swizzle
  Result result_;
};

// What the output format makes of exact values: the rounding that no backend can avoid.
// o is [rows, heads_q, dim_v].
std::vector<double> round_to_output(const AttentionCase& c, const std::vector<double>& o,
                                    double amax);

// The scale of a per-tensor e4m3 output, or NVFP4's g, that is made for values up to amax.
float output_scale(const AttentionCase& c, double amax);

}  // namespace sotto::test

#include "cpu/query_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/element.h"
#include "cpu/pack.h"

namespace sotto::cpu {
namespace {

// For a row of 16 or 32 bits: shrunk until no entry is above 2^-10.
int shrinking_exponent(float largest) {
  const float finite = std::isfinite(largest) ? largest : std::numeric_limits<float>::max();
  return finite == 0.0f ? 0 : std::max(0, std::ilogb(finite) + 11);
}

// In natural units; `row` as stored.
double smoothing_bias(const AttentionArgs& args, const Problem& problem,
                      const core::Sequence& sequence, std::int64_t query, std::int64_t head,
                      float descale, const float* row) {
  if (problem.row_bias) {
    const Tensor& bias = args.smoothing.row_bias;
    return static_cast<const float*>(
        bias.data)[core::head_major_offset(bias, sequence.q, sequence.index, head, query)];
  }
  if (!problem.k_mean) return 0.0;
  const Tensor& mean = args.smoothing.k_mean;
  const std::int64_t kv_head = head / (problem.heads_q / problem.heads_kv);
  const float* k_mean = static_cast<const float*>(mean.data) + sequence.index * mean.stride(0) +
                        kv_head * mean.stride(1);
  double sum = 0.0;
  for (std::int64_t d = 0; d < problem.dim_qk; ++d) {
    sum += static_cast<double>(row[d]) * k_mean[d * mean.stride(2)];
  }
  return sum * descale * problem.scale;
}

}  // namespace

QueryRow load_query_row(const AttentionArgs& args, const Problem& problem,
                        const core::Sequence& sequence, std::int64_t query, std::int64_t head,
                        float* out) {
  constexpr double kLog2e = std::numbers::log2e;
  const core::ScaleRows descales(args.descale.q, sequence.q, sequence.index, problem.heads_q);
  const float descale = descales.at(head, query);
  const SourceRows source{.dtype = problem.dtype_q,
                          .data = args.q.at(core::row_offset(args.q, sequence.q, query, head)),
                          .count = 1};
  const float largest = std::bit_cast<float>(widen_rows(source, problem.dim_qk, false, out));

  QueryRow row;
  const double bias = smoothing_bias(args, problem, sequence, query, head, descale, out);
  row.bias = core::saturated_float(problem.softcap > 0.0f ? bias * kLog2e : bias);
  const int exponent = core::is_float(problem.dtype_q) ? shrinking_exponent(largest) : 0;
  row.scale = core::saturated_float(
      std::ldexp(static_cast<double>(descale) * problem.scale * kLog2e, exponent));
  const float shrink = std::ldexp(1.0f, -exponent);
  for (std::int64_t d = 0; d < problem.dim_qk; ++d) out[d] *= shrink;
  return row;
}

}  // namespace sotto::cpu

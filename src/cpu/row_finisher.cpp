#include "cpu/row_finisher.h"

#include <cmath>
#include <limits>

#include "core/element.h"
#include "cpu/round_rows.h"
#include "cpu/transform.h"

namespace sotto::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

RowFinisher::RowFinisher(const AttentionArgs& args, const Problem& problem)
    : args_(args),
      problem_(problem),
      writer_(args.out, args.output, problem.output, problem.group) {
  writer_.write_padding();
}

void RowFinisher::finish(const core::Sequence& sequence, std::int64_t query, std::int64_t head,
                         double lse, float* o) const {
  if (query < sequence.len_q) lse = add_sink_and_mean(sequence, head, lse, o);
  write(sequence, query, head, o);
  if (problem_.lse) {
    static_cast<float*>(args_.lse.data)[core::head_major_offset(
        args_.lse, sequence.q, sequence.index, head, query)] = core::saturated_float(lse);
  }
}

void RowFinisher::write(const core::Sequence& sequence, std::int64_t query, std::int64_t head,
                        const float* o) const {
  const bool plain = problem_.output == OutputKind::plain;
  if (!plain && problem_.output != OutputKind::fp8) {
    return writer_.write(sequence.q, query, sequence.first_row + query, head, problem_.dim_v, o);
  }
  round_row(o, problem_.dim_v, plain ? 1.0f : *static_cast<const float*>(args_.output.scale.data),
            args_.out.dtype, args_.out.at(core::row_offset(args_.out, sequence.q, query, head)));
}

// Returns the LSE with the sink.
double RowFinisher::add_sink_and_mean(const core::Sequence& sequence, std::int64_t head, double lse,
                                      float* o) const {
  const double sink =
      problem_.sinks ? static_cast<const float*>(args_.sinks.data)[head * args_.sinks.stride(0)]
                     : -kInfinity;
  if (lse == -kInfinity) return sink;  // no key: o stays 0
  const double largest = std::max(lse, sink);
  const double total = largest + std::log1p(std::exp(std::min(lse, sink) - largest));
  const float share = static_cast<float>(std::exp(lse - total));  // of the keys in the denominator
  if (problem_.v_mean) {
    const Tensor& mean = args_.smoothing.v_mean;
    const std::int64_t kv_head = head / (problem_.heads_q / problem_.heads_kv);
    const float* in = static_cast<const float*>(mean.data) + sequence.index * mean.stride(0) +
                      kv_head * mean.stride(1);
    for (std::int64_t d = 0; d < problem_.dim_v; ++d) o[d] += in[d * mean.stride(2)];
  }
  if (problem_.sinks) {
    for (std::int64_t d = 0; d < problem_.dim_v; ++d) o[d] *= share;
  }
  if (problem_.hadamard_v) hadamard_row(o, problem_.dim_v);
  return total;
}

}  // namespace sotto::cpu

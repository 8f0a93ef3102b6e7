// Attention in float64, as the formula at the top of sotto/attention.h reads.
#include <cmath>
#include <limits>
#include <vector>

#include "core/element.h"
#include "core/geometry.h"
#include "core/output.h"
#include "core/parallel.h"
#include "reference/backend.h"
#include "reference/quantize.h"

namespace sotto::reference {
namespace {

using core::Placement;
using core::ScaleRows;
using core::Sequence;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double dot(const double* x, const double* y, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t d = 0; d < n; ++d) sum += x[d] * y[d];
  return sum;
}

// The tokens of one sequence and one head, as values: [len, dim].
struct Matrix {
  std::int64_t dim = 0;
  std::vector<double> values;

  const double* row(std::int64_t token) const { return values.data() + token * dim; }
};

// (tensor + tensor_lo) · scale; tensor_lo may be null.
Matrix load(const Tensor& tensor, const Tensor* tensor_lo, const Scale& scale,
            const Placement& place, const Sequence& sequence, std::int64_t len, std::int64_t head,
            std::int64_t heads) {
  const std::int64_t dim = tensor.size(tensor.rank - 1);
  const ScaleRows scales(scale, place, sequence.index, heads);
  Matrix matrix{dim, std::vector<double>(static_cast<std::size_t>(len * dim))};
  std::vector<float> row(static_cast<std::size_t>(dim));
  for (std::int64_t token = 0; token < len; ++token) {
    double* out = matrix.values.data() + token * dim;
    for (const Tensor* term : {&tensor, tensor_lo}) {
      if (term == nullptr) continue;
      core::load_row(term->dtype, term->at(core::row_offset(*term, place, token, head)), dim,
                     row.data());
      for (std::int64_t d = 0; d < dim; ++d) out[d] += row[static_cast<std::size_t>(d)];
    }
    const double factor = scales.at(head, token);
    for (std::int64_t d = 0; d < dim; ++d) out[d] *= factor;
  }
  return matrix;
}

// Entry [b, h, i, j] of the dense mask, as what is added to the score: a hidden key gets -inf.
double dense_mask(const Tensor& mask, std::int64_t b, std::int64_t h, std::int64_t i,
                  std::int64_t j) {
  const std::byte* entry = mask.at((mask.size(0) > 1 ? b * mask.stride(0) : 0) +
                                   (mask.size(1) > 1 ? h * mask.stride(1) : 0) +
                                   i * mask.stride(2) + j * mask.stride(3));
  if (mask.dtype == Dtype::boolean) {
    return *reinterpret_cast<const std::uint8_t*>(entry) != 0 ? 0.0 : -kInfinity;
  }
  float value;
  core::load_row(mask.dtype, entry, 1, &value);
  return value;
}

double bias_at(const Tensor& bias, const Placement& place, const Sequence& sequence,
               std::int64_t head, std::int64_t token) {
  return static_cast<const float*>(
      bias.data)[core::head_major_offset(bias, place, sequence.index, head, token)];
}

// One query head of one sequence.
class Head {
 public:
  Head(const AttentionArgs& args, const Problem& problem, const Sequence& sequence,
       std::int64_t head)
      : args_(args),
        problem_(problem),
        sequence_(sequence),
        head_(head),
        kv_head_(head / (problem.heads_q / problem.heads_kv)),
        q_(load(args.q, nullptr, args.descale.q, sequence.q, sequence, sequence.len_q, head,
                problem.heads_q)),
        k_(load(args.k, nullptr, args.descale.k, sequence.kv, sequence, sequence.len_k, kv_head_,
                problem.heads_kv)),
        v_(load(args.v, nullptr, args.descale.v, sequence.kv, sequence, sequence.len_k, kv_head_,
                problem.heads_kv)) {
    if (problem.v_lo) {
      v_two_terms_ = load(args.v, &args.v_lo, args.descale.v, sequence.kv, sequence, sequence.len_k,
                          kv_head_, problem.heads_kv);
    }
  }

  // Row i of O into o[0 … dim_v); returns its LSE.
  double attend(std::int64_t i, double* o) const {
    const core::KeyRange keys = core::visible_keys(problem_, sequence_, i);
    const double sink =
        problem_.sinks ? static_cast<const float*>(args_.sinks.data)[head_ * args_.sinks.stride(0)]
                       : -kInfinity;

    std::vector<double> z;
    std::vector<std::int64_t> seen;  // the key of each z
    double max = sink;
    const double row_bias = this->row_bias(i);
    for (std::int64_t j = keys.begin; j < keys.end; ++j) {
      const double mask =
          problem_.dense_mask ? dense_mask(args_.mask.dense, sequence_.index, head_, i, j) : 0.0;
      if (mask == -kInfinity) continue;
      z.push_back(score(i, j, row_bias) + mask);
      seen.push_back(j);
      max = std::max(max, z.back());
    }
    std::fill(o, o + problem_.dim_v, 0.0);
    if (seen.empty()) return sink;

    double of_keys = 0.0;  // Σ_j exp(z_j - max)
    for (std::size_t n = 0; n < seen.size(); ++n) {
      const double p = std::exp(z[n] - max);
      const double* v = value(i, seen[n]);
      of_keys += p;
      for (std::int64_t d = 0; d < problem_.dim_v; ++d) o[d] += p * v[d];
    }
    const double sum = of_keys + std::exp(sink - max);
    for (std::int64_t d = 0; d < problem_.dim_v; ++d) {
      o[d] /= sum;
      if (problem_.v_mean) o[d] += of_keys / sum * mean(args_.smoothing.v_mean, d);
    }
    if (problem_.hadamard_v) hadamard_row(o, problem_.dim_v);
    return max + std::log(sum);
  }

 private:
  double score(std::int64_t i, std::int64_t j, double row_bias) const {
    double z = problem_.scale * dot(q_.row(i), k_.row(j), problem_.dim_qk) + row_bias;
    if (problem_.key_bias) {
      z += bias_at(args_.smoothing.key_bias, sequence_.kv, sequence_, head_, j);
    }
    return problem_.softcap > 0.0f ? problem_.softcap * std::tanh(z / problem_.softcap) : z;
  }

  // What K smoothing took from every score of row i.
  double row_bias(std::int64_t i) const {
    if (problem_.row_bias) {
      return bias_at(args_.smoothing.row_bias, sequence_.q, sequence_, head_, i);
    }
    double sum = 0.0;
    if (problem_.k_mean) {
      for (std::int64_t d = 0; d < problem_.dim_qk; ++d) {
        sum += q_.row(i)[d] * mean(args_.smoothing.k_mean, d);
      }
    }
    return problem_.scale * sum;
  }

  double mean(const Tensor& tensor, std::int64_t d) const {
    return static_cast<const float*>(
        tensor.data)[sequence_.index * tensor.stride(0) + kv_head_ * tensor.stride(1) +
                     d * tensor.stride(2)];
  }

  const double* value(std::int64_t i, std::int64_t j) const {
    const bool two_terms = problem_.v_lo && core::takes_v_lo(problem_, sequence_, i, j / 128);
    return (two_terms ? v_two_terms_ : v_).row(j);
  }

  const AttentionArgs& args_;
  const Problem& problem_;
  const Sequence& sequence_;
  std::int64_t head_, kv_head_;
  Matrix q_, k_, v_, v_two_terms_;
};

void attend_head(const AttentionArgs& args, const Problem& problem, const Sequence& sequence,
                 std::int64_t head_index, const core::OutputWriter& writer) {
  const Head head(args, problem, sequence, head_index);
  std::vector<double> o(static_cast<std::size_t>(problem.dim_v));
  std::vector<float> rounded(o.size());
  for (std::int64_t i = 0; i < sequence.rows_q; ++i) {
    double lse = -kInfinity;
    std::fill(o.begin(), o.end(), 0.0);
    if (i < sequence.len_q) lse = head.attend(i, o.data());
    std::copy(o.begin(), o.end(), rounded.begin());
    writer.write(sequence.q, i, sequence.first_row + i, head_index, problem.dim_v, rounded.data());
    if (problem.lse) {
      static_cast<float*>(args.lse.data)[core::head_major_offset(
          args.lse, sequence.q, sequence.index, head_index, i)] = core::saturated_float(lse);
    }
  }
}

}  // namespace

void attend(const AttentionArgs& args, const Problem& problem) {
  const core::OutputWriter writer(args.out, args.output, problem.output, problem.group);
  writer.write_padding();
  core::parallel_for(problem.batch * problem.heads_q, [&](std::int64_t i) {
    const core::Sequence sequence = core::sequence_at(args, problem, i / problem.heads_q);
    attend_head(args, problem, sequence, i % problem.heads_q, writer);
  });
}

}  // namespace sotto::reference

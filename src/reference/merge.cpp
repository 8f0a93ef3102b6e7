// Merging partial states in float64: MergeArgs has the formula.
#include <cmath>
#include <limits>
#include <vector>

#include "core/element.h"
#include "core/output.h"
#include "core/validate.h"
#include "reference/backend.h"

namespace sotto::reference {
namespace {

using core::Placement;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One row: [token, head] of the tensors that `place` describes.
class Row {
 public:
  Row(const MergeArgs& args, const Placement& place, std::int64_t token, std::int64_t head)
      : args_(args), place_(place), token_(token), head_(head) {}

  // Row of O into o[0 … dim); returns its LSE.
  double merge(std::vector<double>& o) const {
    double max = -kInfinity;
    bool seen = false;
    for (const PartialState& state : args_.states) {
      max = std::max(max, lse_of(state));
      seen = seen || lse_of(state) != -kInfinity;  // NaN is seen, too, and must come out
    }
    std::fill(o.begin(), o.end(), 0.0);
    if (!seen) return -kInfinity;

    double sum = 0.0;
    std::vector<float> part(o.size());
    for (const PartialState& state : args_.states) {
      const double weight = std::exp(lse_of(state) - max);
      if (weight == 0.0) continue;  // saw no key: its rows need not hold numbers
      sum += weight;
      core::load_row(state.out.dtype,
                     state.out.at(core::row_offset(state.out, place_, token_, head_)),
                     static_cast<std::int64_t>(o.size()), part.data());
      for (std::size_t d = 0; d < o.size(); ++d) o[d] += weight * part[d];
    }
    for (double& x : o) x /= sum;
    return max + std::log(sum);
  }

 private:
  double lse_of(const PartialState& state) const {
    return static_cast<const float*>(
        state.lse.data)[core::head_major_offset(state.lse, place_, place_.index, head_, token_)];
  }

  const MergeArgs& args_;
  const Placement& place_;
  std::int64_t token_, head_;
};

}  // namespace

void merge(const MergeArgs& args) {
  const core::TokenShape shape = core::shape_of_states(args);
  const core::OutputFormat format =
      core::output_format(args.out, args.output, shape.heads * shape.dim);
  const core::OutputWriter writer(args.out, args.output, format.kind, format.group);
  writer.write_padding();
  std::vector<double> o(static_cast<std::size_t>(shape.dim));
  std::vector<float> rounded(o.size());
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    const Placement place{.index = b, .packed = shape.packed};
    for (std::int64_t i = 0; i < shape.len; ++i) {
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        const double lse = Row(args, place, i, h).merge(o);
        std::copy(o.begin(), o.end(), rounded.begin());
        writer.write(place, i, b * shape.len + i, h, shape.dim, rounded.data());
        if (args.lse) {
          static_cast<float*>(args.lse.data)[core::head_major_offset(args.lse, place, b, h, i)] =
              static_cast<float>(lse);
        }
      }
    }
  }
}

}  // namespace sotto::reference

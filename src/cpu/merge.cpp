#include "cpu/merge.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/element.h"
#include "core/output.h"
#include "core/parallel.h"
#include "core/validate.h"
#include "cpu/attention.h"

namespace sotto::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

double merge_rows(std::span<const PartialRow> states, std::int64_t dim_v, float* o) {
  double largest = -kInfinity;
  bool seen = false;
  for (const PartialRow& state : states) {
    largest = std::max(largest, state.lse);
    seen = seen || state.lse != -kInfinity;  // NaN is seen, too, and comes out
  }
  std::fill_n(o, dim_v, 0.0f);
  if (!seen) return -kInfinity;

  double sum = 0.0;
  for (const PartialRow& state : states) sum += std::exp(state.lse - largest);
  const double lse = largest + std::log(sum);
  for (const PartialRow& state : states) {
    const float weight = static_cast<float>(std::exp(state.lse - lse));
    if (weight == 0.0f) continue;  // a state that saw no key need not hold numbers
    for (std::int64_t d = 0; d < dim_v; ++d) o[d] += weight * state.o[d];
  }
  return lse;
}

void merge_states(const MergeArgs& args) {
  const core::TokenShape shape = core::shape_of_states(args);
  const core::OutputFormat format =
      core::output_format(args.out, args.output, shape.heads * shape.dim);
  const core::OutputWriter writer(args.out, args.output, format.kind, format.group);
  writer.write_padding();

  const std::size_t count = args.states.size(), dim = static_cast<std::size_t>(shape.dim);
  const int workers = core::max_workers();
  std::vector<float> rows(static_cast<std::size_t>(workers) * (count + 1) * dim);
  std::vector<PartialRow> partial_rows(static_cast<std::size_t>(workers) * count);
  core::parallel_for(shape.batch * shape.len, workers, [&](std::int64_t row, int worker) {
    const std::int64_t b = row / shape.len, token = row % shape.len;
    const core::Placement place{.index = b, .packed = shape.packed};
    float* widened = rows.data() + static_cast<std::size_t>(worker) * (count + 1) * dim;
    float* o = widened + count * dim;
    const std::span<PartialRow> states(
        partial_rows.data() + static_cast<std::size_t>(worker) * count, count);
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      for (std::size_t s = 0; s < count; ++s) {
        const PartialState& state = args.states[s];
        float* in = widened + s * dim;
        core::load_row(state.out.dtype,
                       state.out.at(core::row_offset(state.out, place, token, head)), shape.dim,
                       in);
        states[s] = {static_cast<const float*>(
                         state.lse.data)[core::head_major_offset(state.lse, place, b, head, token)],
                     in};
      }
      const double lse = merge_rows(states, shape.dim, o);
      writer.write(place, token, row, head, shape.dim, o);
      if (args.lse) {
        static_cast<float*>(
            args.lse.data)[core::head_major_offset(args.lse, place, b, head, token)] =
            static_cast<float>(lse);
      }
    }
  });
}

}  // namespace sotto::cpu

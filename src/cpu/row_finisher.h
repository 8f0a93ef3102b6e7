// What happens to a row of O once its keys are summed: sink, V's mean, Hadamard, output format,
// LSE.
#pragma once

#include <cstdint>

#include "core/geometry.h"
#include "core/output.h"

namespace sotto::cpu {

class RowFinisher {
 public:
  RowFinisher(const AttentionArgs& args, const Problem& problem);

  // o[0 … dim_v) and its LSE, both over keys alone; o is overwritten. For queries beyond the
  // sequence's length: zeros and -Inf.
  void finish(const core::Sequence& sequence, std::int64_t query, std::int64_t head, double lse,
              float* o) const;

 private:
  void write(const core::Sequence& sequence, std::int64_t query, std::int64_t head,
             const float* o) const;
  double add_sink_and_mean(const core::Sequence& sequence, std::int64_t head, double lse,
                           float* o) const;

  const AttentionArgs& args_;
  const Problem& problem_;
  core::OutputWriter writer_;
};

}  // namespace sotto::cpu

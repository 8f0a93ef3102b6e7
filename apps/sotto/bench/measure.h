// How long a call takes, and how much memory.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace sotto::cli {

struct Measurement {
  std::vector<double> seconds;       // of each call that counts, in order
  std::optional<double> peak_bytes;  // by which the first call of all raised resident memory;
                                     // absent where the system does not say
  double median() const;
  double spread() const;  // distance of the quartiles, as a fraction of the median
};

struct MeasureOptions {
  std::int64_t warmup = 1, repeats = 10;
  double max_seconds = 10;  // no call begins later than this, but for the first that counts
};

Measurement measure(const std::function<void()>& call, const MeasureOptions& options);

}  // namespace sotto::cli

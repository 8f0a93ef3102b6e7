#include "run/compare.h"

#include <cmath>
#include <limits>

namespace sotto::cli {

Comparison compare(std::span<const float> out, std::span<const float> reference) {
  Comparison result;
  double signal = 0, noise = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double a = out[i], b = reference[i];
    if (a == b || (std::isnan(a) && std::isnan(b))) {
      if (std::isfinite(b)) signal += b * b;
      continue;
    }
    if (!result.first_mismatch) result.first_mismatch = i;
    if (!std::isfinite(a) || !std::isfinite(b)) {
      ++result.nonfinite_mismatches;
      continue;
    }
    const double error = std::abs(a - b);
    signal += b * b;
    noise += error * error;
    if (error > result.max_abs_error) {
      result.max_abs_error = error;
      result.worst = i;
    }
  }
  result.sqnr_db = noise == 0 ? std::numeric_limits<double>::infinity()
                              : 10 * std::log10(signal / noise);  // -inf for a reference of zeros
  return result;
}

}  // namespace sotto::cli

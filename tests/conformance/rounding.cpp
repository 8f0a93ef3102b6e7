#include "rounding.h"

#include <algorithm>
#include <cmath>

namespace sotto::test {
namespace {

// Half a step of a float format around x.
double half_step(double x, int mantissa_bits, int least_exponent) {
  const int exponent = x == 0 ? least_exponent : std::max(std::ilogb(x), least_exponent);
  return std::ldexp(0.5, exponent - mantissa_bits);
}

double half_step(double x, Dtype dtype) {
  switch (dtype) {
    case Dtype::e4m3:
      return half_step(x, 3, -6);
    case Dtype::i8:
      return 0.5;
    case Dtype::bf16:
      return half_step(x, 7, -126);
    case Dtype::f16:
      return half_step(x, 10, -14);
    default:
      return half_step(x, 23, -126);
  }
}

}  // namespace

bool is_rounded(double y, float stored, float stored_lo, Dtype dtype, float scale, bool two_terms,
                double slack) {
  if (std::isnan(y)) return dtype == Dtype::i8 ? stored == 0.0f : std::isnan(stored);
  const double largest = dtype == Dtype::e4m3 ? 448.0 : dtype == Dtype::i8 ? 127.0 : INFINITY;
  const double target = y / static_cast<double>(scale);
  if (std::isinf(y) || std::fabs(target) > largest) {
    const double limit = std::isinf(largest) ? y : std::copysign(largest, y);
    if (!two_terms) return static_cast<double>(stored) == limit;
    if (std::isinf(y)) return static_cast<double>(stored) == limit;
  }
  const double slack_in_steps = slack / static_cast<double>(scale);
  double allowed = half_step(target, dtype);
  if (two_terms) allowed = half_step(allowed, dtype);
  const double got = static_cast<double>(stored) + static_cast<double>(stored_lo);
  return std::fabs(got - target) <= allowed * (1 + 1e-6) + slack_in_steps;
}

}  // namespace sotto::test

// From the largest magnitude of a group to its scale (spec of quantize() and OutputQuant).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "sotto/numerics.h"

namespace sotto::core {

inline constexpr float kInt8Max = 127.0f;

// |x| where finite, else 0: what amax is taken over.
inline float finite_magnitude(float x) {
  const float a = std::fabs(x);
  return a <= std::numeric_limits<float>::max() ? a : 0.0f;
}

// amax / largest, not below the smallest normal float (so that dividing by it is safe); 1 for 0.
inline float scale_of(float amax, float largest) {
  if (amax == 0.0f) return 1.0f;
  return std::max(amax / largest, std::numeric_limits<float>::min());
}

// The smallest power of two that is not below a positive scale.
inline float round_up_to_power_of_two(float scale) {
  return static_cast<float>(ue8m0::round_up(scale));
}

// Round to nearest even, saturate at ±127; NaN is 0.
inline std::int8_t int8_from(float x) {
  if (!(std::fabs(x) <= kInt8Max)) return x > 0 ? 127 : x < 0 ? -127 : 0;
  return static_cast<std::int8_t>(std::nearbyint(x));
}

}  // namespace sotto::core

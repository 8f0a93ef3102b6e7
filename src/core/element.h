// Reading and writing single numbers of any dtype as floats.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "sotto/tensor.h"

namespace sotto::core {

// Calls f with a value of the C++ type of a floating or 8-bit dtype: f(float{}), f(e4m3{}), …
template <class F>
decltype(auto) with_element_type(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f16:
      return f(f16{});
    case Dtype::bf16:
      return f(bf16{});
    case Dtype::e4m3:
      return f(e4m3{});
    case Dtype::i8:
      return f(std::int8_t{});
    default:
      return f(float{});
  }
}

// data[0 … n) of a dtype f32, f16, bf16, e4m3 or i8, widened (exact).
inline void load_row(Dtype dtype, const std::byte* data, std::int64_t n, float* out) {
  with_element_type(dtype, [&]<class T>(T) {
    const T* in = reinterpret_cast<const T*>(data);
    for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(in[i]);
  });
}

// To the nearest float, a finite number to a finite one: beyond fp32's range to ±FLT_MAX.
inline float saturated_float(double x) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::isfinite(x) ? std::clamp(x, -kLargest, kLargest) : x);
}

inline bool is_float(Dtype dtype) {
  return dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}
inline bool is_quantized(Dtype dtype) { return dtype == Dtype::e4m3 || dtype == Dtype::i8; }

}  // namespace sotto::core

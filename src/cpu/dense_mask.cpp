#include "cpu/dense_mask.h"

#include <algorithm>
#include <limits>
#include <numbers>

#include "core/element.h"

namespace sotto::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float added_to_score(float entry) {
  // Keeps a finite entry, such as the lowest float, from hiding a key and from overflowing a sum.
  constexpr float kLimit = 0x1p125f;
  const float bounded = entry > kLimit ? kLimit : entry < -kLimit ? -kLimit : entry;
  return entry == -kInfinity ? -kInfinity : bounded * std::numbers::log2e_v<float>;
}

}  // namespace

MaskRow load_mask_row(Dtype dtype, const std::byte* entries, std::int64_t stride,
                      std::int64_t count, float* out) {
  if (dtype == Dtype::boolean) {
    const auto* may_see = reinterpret_cast<const std::uint8_t*>(entries);
    for (std::int64_t j = 0; j < count; ++j) out[j] = may_see[j * stride] != 0 ? 0.0f : -kInfinity;
  } else {
    core::with_element_type(dtype, [&]<class T>(T) {
      const T* in = reinterpret_cast<const T*>(entries);
      for (std::int64_t j = 0; j < count; ++j) {
        out[j] = added_to_score(static_cast<float>(in[j * stride]));
      }
    });
  }
  MaskRow row;
  for (std::int64_t j = 0; j < count; ++j) {
    row.hides_all &= out[j] == -kInfinity;
    row.is_zero &= out[j] == 0.0f;
  }
  return row;
}

}  // namespace sotto::cpu

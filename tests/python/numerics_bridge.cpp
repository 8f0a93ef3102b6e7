// Whole arrays through the number formats of sotto/numerics.h, for Python's ctypes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "sotto/numerics.h"

namespace {

// Calls `visit` with a value of the format's type; false: no format of that name.
template <class Visit>
bool with_format(std::string_view name, Visit visit) {
  if (name == "bf16") return visit(sotto::bf16()), true;
  if (name == "f16") return visit(sotto::f16()), true;
  if (name == "e4m3") return visit(sotto::e4m3()), true;
  if (name == "e5m2") return visit(sotto::e5m2()), true;
  if (name == "e2m1") return visit(sotto::e2m1()), true;
  if (name == "ue8m0") return visit(sotto::ue8m0()), true;
  return false;
}

}  // namespace

extern "C" {

// Codes are 16 bits wide here, whatever the format's width.
bool sotto_decode(const char* format, const std::uint16_t* codes, float* values,
                  std::size_t count) {
  return with_format(format, [&](auto type) {
    using Format = decltype(type);
    for (std::size_t i = 0; i < count; ++i) {
      values[i] =
          static_cast<float>(Format::from_bits(static_cast<decltype(Format::bits)>(codes[i])));
    }
  });
}

bool sotto_encode(const char* format, const float* values, std::uint16_t* codes,
                  std::size_t count) {
  return with_format(format, [&](auto type) {
    using Format = decltype(type);
    for (std::size_t i = 0; i < count; ++i) codes[i] = Format(values[i]).bits;
  });
}

void sotto_ue8m0_round_up(const float* values, std::uint16_t* codes, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) codes[i] = sotto::ue8m0::round_up(values[i]).bits;
}
}

#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/pack.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/element.h"
#include "cpu/convert-inl.h"
#include "cpu/math-inl.h"
#include "cpu/pack.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

template <class T>
std::uint32_t WidenRows(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out) {
  const F32 d;
  const U32 du;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(du);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const T* in = reinterpret_cast<const T*>(rows.data + row * rows.stride);
    const auto scale = hn::Set(d, rows.scale != nullptr ? rows.scale[row] : 1.0f);
    float* row_out = out + row * dim;
    for (std::int64_t i = 0; i < dim; i += lanes) {
      auto x = hn::Mul(load(d, in + i), scale);
      if (accumulate) x = hn::Add(x, hn::LoadU(d, row_out + i));
      hn::StoreU(x, d, row_out + i);
      largest = hn::Max(largest, hn::BitCast(du, hn::Abs(x)));
    }
  }
  HWY_ALIGN std::uint32_t bits[16];
  hn::Store(largest, du, bits);
  return *std::max_element(bits, bits + lanes);
}

std::uint32_t WidenRowsOf(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out) {
  return core::with_element_type(
      rows.dtype, [&]<class T>(T) { return WidenRows<T>(rows, dim, accumulate, out); });
}

void ConvertRowsToBf16(const SourceRows& rows, std::int64_t dim, bf16* out) {
  core::with_element_type(rows.dtype, [&]<class T>(T) {
    const F32 d;
    for (std::int64_t row = 0; row < rows.count; ++row) {
      const T* in = reinterpret_cast<const T*>(rows.data + row * rows.stride);
      for (std::int64_t i = 0; i < dim; i += static_cast<std::int64_t>(hn::Lanes(d))) {
        const auto bits = hn::BitCast(U32(), load(d, in + i));
        store_codes(d, hn::ShiftRight<16>(bits),
                    reinterpret_cast<std::uint16_t*>(out + row * dim + i));
      }
    }
  });
}

// The upper half of each lane is the number as bf16.
HWY_INLINE hn::Vec<U32> round_finite(hn::Vec<U32> bits) {
  const U32 du;
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto exponent = hn::Set(du, 0x7f800000u);
  return hn::IfThenZeroElse(hn::Eq(hn::And(bits, exponent), exponent), rounded);
}

void PackRowPairs(const float* rows, std::int64_t count, std::int64_t dim, std::uint32_t* out) {
  const F32 d;
  const U32 du;
  for (std::int64_t row = 0; row < count; row += 2) {
    const float* even = rows + row * dim;
    for (std::int64_t i = 0; i < dim; i += static_cast<std::int64_t>(hn::Lanes(d))) {
      const auto low = round_finite(hn::BitCast(du, hn::LoadU(d, even + i)));
      const auto high = round_finite(hn::BitCast(du, hn::LoadU(d, even + dim + i)));
      hn::StoreU(hn::Or(hn::ShiftRight<16>(low), hn::And(high, hn::Set(du, 0xffff0000u))), du,
                 out + row / 2 * dim + i);
    }
  }
}

float InterleaveRowPairs(const bf16* rows, std::int64_t count, std::int64_t dim,
                         std::uint32_t* out) {
  const U32 du;
  const hn::Rebind<std::uint16_t, U32> d16;
  const auto magnitude = hn::Set(du, 0x7fff0000u);
  auto largest = hn::Zero(du);
  for (std::int64_t row = 0; row < count; row += 2) {
    const auto* even = reinterpret_cast<const std::uint16_t*>(rows + row * dim);
    for (std::int64_t i = 0; i < dim; i += static_cast<std::int64_t>(hn::Lanes(du))) {
      const auto low = hn::PromoteTo(du, hn::LoadU(d16, even + i));
      const auto high = hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, even + dim + i)));
      hn::StoreU(hn::Or(low, high), du, out + row / 2 * dim + i);
      largest = hn::Max(largest, hn::And(high, magnitude));
      largest = hn::Max(largest, hn::And(hn::ShiftLeft<16>(low), magnitude));
    }
  }
  HWY_ALIGN std::uint32_t bits[16];
  hn::Store(largest, du, bits);
  return std::bit_cast<float>(
      *std::max_element(bits, bits + static_cast<std::int64_t>(hn::Lanes(du))));
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(WidenRowsOf);
HWY_EXPORT(ConvertRowsToBf16);
HWY_EXPORT(PackRowPairs);
HWY_EXPORT(InterleaveRowPairs);

std::uint32_t widen_rows(const SourceRows& rows, std::int64_t dim, bool accumulate, float* out) {
  return HWY_DYNAMIC_DISPATCH(WidenRowsOf)(rows, dim, accumulate, out);
}

void convert_rows_to_bf16(const SourceRows& rows, std::int64_t dim, bf16* out) {
  if (rows.dtype != Dtype::bf16) return HWY_DYNAMIC_DISPATCH(ConvertRowsToBf16)(rows, dim, out);
  for (std::int64_t row = 0; row < rows.count; ++row) {
    std::memcpy(out + row * dim, rows.data + row * rows.stride,
                static_cast<std::size_t>(dim) * sizeof(bf16));
  }
}

void pack_row_pairs(const float* rows, std::int64_t count, std::int64_t dim, std::uint32_t* out) {
  HWY_DYNAMIC_DISPATCH(PackRowPairs)(rows, count, dim, out);
}

float interleave_row_pairs(const bf16* rows, std::int64_t count, std::int64_t dim,
                           std::uint32_t* out) {
  return HWY_DYNAMIC_DISPATCH(InterleaveRowPairs)(rows, count, dim, out);
}

void copy_int8_rows(const SourceRows& rows, std::int64_t dim, std::int8_t* out,
                    std::int32_t* start) {
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const std::byte* in = rows.data + row * rows.stride;
    std::memcpy(out + row * dim, in, static_cast<std::size_t>(dim));
    std::int32_t sum = 0;
    for (std::int64_t i = 0; i < dim; ++i) sum += static_cast<std::int8_t>(in[i]);
    start[row] = -128 * sum;
  }
}

void clear_special_values(float* data, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(data[i])) data[i] = 0.0f;
  }
}

}  // namespace sotto::cpu
#endif  // HWY_ONCE

// The fast Walsh-Hadamard transform of rows. Included once per SIMD target, after hwy/highway.h.
#if defined(SOTTO_CPU_HADAMARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_HADAMARD_INL_H_
#undef SOTTO_CPU_HADAMARD_INL_H_
#else
#define SOTTO_CPU_HADAMARD_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/hadamard.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One butterfly stage between lanes i and i ^ kDistance; `partner` holds the lanes i ^ kDistance.
template <int kDistance, class D>
HWY_INLINE hn::Vec<D> butterfly_lanes(D d, hn::Vec<D> x, hn::Vec<D> partner) {
  constexpr int kLog2 = kDistance == 1 ? 0 : kDistance == 2 ? 1 : kDistance == 4 ? 2 : 3;
  const hn::RebindToUnsigned<D> du;
  const auto upper = hn::And(hn::ShiftLeft<31 - kLog2>(hn::Iota(du, 0)), hn::Set(du, 0x80000000u));
  const auto sign = hn::BitCast(d, hn::Or(upper, hn::Set(du, 0x3f800000u)));  // ±1
  return hn::MulAdd(x, sign, partner);
}

template <class F, int... i>
HWY_INLINE void call_with(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>()), ...);
}

// Calls f with the constants 0 … n - 1: loops over arrays of vectors, which stay in registers only
// where the compiler sees constant indices.
template <int n, class F>
HWY_INLINE void unroll(F&& f) {
  call_with(f, std::make_integer_sequence<int, n>());
}

// The stages with distances below min(block, lanes of x).
template <class D>
HWY_INLINE hn::Vec<D> hadamard_in_vector([[maybe_unused]] D d, [[maybe_unused]] std::int64_t block,
                                         hn::Vec<D> x) {
#if HWY_TARGET != HWY_SCALAR  // which has one lane
  constexpr std::size_t kLanes = hn::MaxLanes(D());
  x = butterfly_lanes<1>(d, x, hn::Shuffle2301(x));
  if (block > 2) x = butterfly_lanes<2>(d, x, hn::Shuffle1032(x));
  if constexpr (kLanes > 4) {
    if (block > 4) x = butterfly_lanes<4>(d, x, hn::SwapAdjacentBlocks(x));
  }
  if constexpr (kLanes > 8) {
    if (block > 8) x = butterfly_lanes<8>(d, x, hn::ConcatLowerUpper(d, x, x));
  }
#endif
  return x;
}

// The stages between kVectors neighbouring vectors, then times factor.
template <int kVectors, int kDistance = 1, class D>
HWY_INLINE void hadamard_between_vectors(D d, float factor, hn::Vec<D> (&x)[kVectors]) {
  if constexpr (kDistance < kVectors) {
    unroll<kVectors>([&](auto v) HWY_ATTR {
      if constexpr ((v & kDistance) == 0) {
        const auto a = x[v], b = x[v + kDistance];
        x[v] = hn::Add(a, b);
        x[v + kDistance] = hn::Sub(a, b);
      }
    });
    hadamard_between_vectors<kVectors, 2 * kDistance>(d, factor, x);
  } else {
    unroll<kVectors>([&](auto v) HWY_ATTR { x[v] = hn::Mul(x[v], hn::Set(d, factor)); });
  }
}

// The stages within kVectors neighbouring vectors, times factor.
template <int kVectors, class D>
HWY_INLINE void hadamard_group(D d, std::int64_t block, float factor, float* row) {
  constexpr std::size_t kLanes = hn::MaxLanes(D());
  hn::Vec<D> x[kVectors];
  unroll<kVectors>([&](auto v) HWY_ATTR {
    x[v] = hadamard_in_vector(d, block, hn::LoadU(d, row + v * kLanes));
  });
  hadamard_between_vectors<kVectors>(d, factor, x);
  unroll<kVectors>([&](auto v) HWY_ATTR { hn::StoreU(x[v], d, row + v * kLanes); });
}

inline float hadamard_factor(std::int64_t block) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
}

// The fast Walsh-Hadamard transform in each block, times 1/sqrt(block): first in groups of vectors,
// in registers, then between those.
template <int kVectors>
void hadamard_blocks(std::int64_t dim, std::int64_t block, float* row) {
  const hn::CappedTag<float, 16> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t group = kVectors * lanes;
  const float normalise = hadamard_factor(block);
  const float within = block <= group ? normalise : 1.0f;
  std::int64_t begin = 0;
  for (; begin + group <= dim; begin += group) {
    hadamard_group<kVectors>(d, block, within, row + begin);
  }
  if (begin < dim) {  // only where a block is smaller than a vector
    HWY_ALIGN float rest[16] = {};
    std::copy(row + begin, row + dim, rest);
    hadamard_group<1>(d, block, within, rest);
    std::copy(rest, rest + (dim - begin), row + begin);
  }
  for (std::int64_t distance = group; distance < block; distance *= 2) {
    const auto factor = hn::Set(d, 2 * distance == block ? normalise : 1.0f);
    for (std::int64_t i = 0; i < dim; i += 2 * distance) {
      for (std::int64_t j = i; j < i + distance; j += lanes) {
        const auto a = hn::LoadU(d, row + j), b = hn::LoadU(d, row + j + distance);
        hn::StoreU(hn::Mul(hn::Add(a, b), factor), d, row + j);
        hn::StoreU(hn::Mul(hn::Sub(a, b), factor), d, row + j + distance);
      }
    }
  }
}

inline void hadamard_in_range(float* row, std::int64_t dim) {
  const std::int64_t block = core::hadamard_block(dim);
  if (block <= 1) return;
  const auto vectors = block / static_cast<std::int64_t>(hn::Lanes(hn::CappedTag<float, 16>()));
  if (vectors >= 8) return hadamard_blocks<8>(dim, block, row);
  if (vectors >= 4) return hadamard_blocks<4>(dim, block, row);
  if (vectors >= 2) return hadamard_blocks<2>(dim, block, row);
  return hadamard_blocks<1>(dim, block, row);
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

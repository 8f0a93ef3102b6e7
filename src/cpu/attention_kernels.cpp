#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_kernels.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/attention_kernels.h"
#include "cpu/attention_kernels_avx512.h"
#include "cpu/math-inl.h"
#include "cpu/products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

#include "cpu/block_step-inl.h"

void AttendTile(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  step_blocks<Fp32Products, Fp32Products>(step, tile, block);
}

std::int64_t RowBlockOf(std::int64_t rows) {
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(F32()));
  return rows <= lanes ? lanes : 2 * lanes;
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(AttendTile);
HWY_EXPORT(RowBlockOf);

std::int64_t row_block(std::int64_t rows) { return HWY_DYNAMIC_DISPATCH(RowBlockOf)(rows); }

void attend_tile(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  const bool in_fp32 = step.arithmetic.qk == Product::fp32 && step.arithmetic.pv == Product::fp32;
  if (!in_fp32) return attend_tile_avx512(step, tile, block);
  HWY_DYNAMIC_DISPATCH(AttendTile)(step, tile, block);
}

}  // namespace sotto::cpu
#endif  // HWY_ONCE

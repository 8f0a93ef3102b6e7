#include "models/rowwise.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/rowwise.cpp"
#include "hwy/foreach_target.h"

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::models::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes = hn::ScalableTag<float>;
using OneLane = hn::CappedTag<float, 1>;

// Long sums are gathered in fp32 lanes for this many elements, then in double.
constexpr std::size_t kRun = 1024;

// Calls body(tag, i) for whole vectors, then for single elements.
template <class Body>
HWY_INLINE void for_each_vector(std::size_t n, const Body& body) {
  const Lanes d;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= n; i += hn::Lanes(d)) body(d, i);
  for (; i < n; ++i) body(OneLane(), i);
}

// Σ term(tag, i).
template <class Term>
HWY_INLINE double sum_of(std::size_t n, const Term& term) {
  const Lanes d;
  double total = 0;
  std::size_t i = 0;
  while (i + hn::Lanes(d) <= n) {
    auto sum = hn::Zero(d);
    const std::size_t end = std::min(n, i + kRun);
    for (; i + hn::Lanes(d) <= end; i += hn::Lanes(d)) sum = hn::Add(sum, term(d, i));
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; i < n; ++i) total += hn::GetLane(term(OneLane(), i));
  return total;
}

void RmsNormRow(const float* HWY_RESTRICT x, const float* HWY_RESTRICT weight, float eps,
                std::size_t cols, float* HWY_RESTRICT y) {
  const double squares = sum_of(cols, [x](auto d, std::size_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    return hn::Mul(v, v);
  });
  const auto factor =
      static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(cols) + eps));
  for_each_vector(cols, [=](auto d, std::size_t i) HWY_ATTR {
    const auto v = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor));
    hn::StoreU(hn::Mul(v, hn::LoadU(d, weight + i)), d, y + i);
  });
}

void SiluMulRow(const float* HWY_RESTRICT x, std::size_t cols, float* HWY_RESTRICT y) {
  for_each_vector(cols, [=](auto d, std::size_t i) HWY_ATTR {
    const auto gate = hn::LoadU(d, x + i);
    // Exp takes at most 104; from 88 on the quotient is as good as 0.
    const auto e = hn::Exp(d, hn::Min(hn::Neg(gate), hn::Set(d, 88.0f)));
    const auto silu = hn::Div(gate, hn::Add(e, hn::Set(d, 1.0f)));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, x + cols + i)), d, y + i);
  });
}

float RowMax(const float* x, std::size_t cols) {
  const Lanes d;
  auto lanes = hn::Set(d, x[0]);
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= cols; i += hn::Lanes(d)) lanes = hn::Max(lanes, hn::LoadU(d, x + i));
  float max = hn::GetLane(hn::MaxOfLanes(d, lanes));
  for (; i < cols; ++i) max = std::max(max, x[i]);
  return max;
}

RowSummary SummarizeRow(const float* x, std::size_t cols) {
  const float max = RowMax(x, cols);
  const double sum = sum_of(cols, [=](auto d, std::size_t i) HWY_ATTR {
    return hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, max)));
  });
  const float* first = std::find(x, x + cols, max);
  // NaN logits: no element equals the maximum.
  return {max + std::log(sum), first == x + cols ? 0 : first - x};
}

// Σ p·(x − y) + (lse_y − lse_x), where x and y are the logits of p and q.
double KlRow(const float* HWY_RESTRICT x, double lse_x, const float* HWY_RESTRICT y, double lse_y,
             std::size_t cols) {
  const auto shift = static_cast<float>(lse_x);
  const auto distance = static_cast<float>(lse_x - lse_y);
  // With the difference of the two log-sum-exps inside, the terms are of the size of the result
  // and little cancels.
  return sum_of(cols, [=](auto d, std::size_t i) HWY_ATTR {
    const auto vx = hn::LoadU(d, x + i);
    const auto p = hn::Exp(d, hn::Sub(vx, hn::Set(d, shift)));
    return hn::Mul(p, hn::Sub(hn::Sub(vx, hn::LoadU(d, y + i)), hn::Set(d, distance)));
  });
}

Energy EnergyRow(const float* HWY_RESTRICT ref, const float* HWY_RESTRICT x, std::size_t cols) {
  Energy energy;
  energy.reference = sum_of(cols, [=](auto d, std::size_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, ref + i);
    return hn::Mul(v, v);
  });
  energy.error = sum_of(cols, [=](auto d, std::size_t i) HWY_ATTR {
    const auto v = hn::Sub(hn::LoadU(d, ref + i), hn::LoadU(d, x + i));
    return hn::Mul(v, v);
  });
  return energy;
}

}  // namespace sotto::models::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::models {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(SiluMulRow);
HWY_EXPORT(SummarizeRow);
HWY_EXPORT(KlRow);
HWY_EXPORT(EnergyRow);

void rms_norm(const float* x, const float* weight, float eps, std::int64_t rows, std::int64_t cols,
              float* y) {
  const auto row = HWY_DYNAMIC_DISPATCH(RmsNormRow);
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r)
    row(x + r * cols, weight, eps, static_cast<std::size_t>(cols), y + r * cols);
}

void silu_mul(const float* x, std::int64_t rows, std::int64_t cols, float* y) {
  const auto row = HWY_DYNAMIC_DISPATCH(SiluMulRow);
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r)
    row(x + r * 2 * cols, static_cast<std::size_t>(cols), y + r * cols);
}

RowSummary summarize(const float* logits, std::int64_t cols) {
  return HWY_DYNAMIC_DISPATCH(SummarizeRow)(logits, static_cast<std::size_t>(cols));
}

double kl_divergence(const float* p, double p_log_sum_exp, const float* q, double q_log_sum_exp,
                     std::int64_t cols) {
  return HWY_DYNAMIC_DISPATCH(KlRow)(p, p_log_sum_exp, q, q_log_sum_exp,
                                     static_cast<std::size_t>(cols));
}

Energy error_energy(const float* ref, const float* x, std::int64_t rows, std::int64_t cols) {
  const auto row = HWY_DYNAMIC_DISPATCH(EnergyRow);
  std::vector<Energy> parts(static_cast<std::size_t>(rows));
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r)
    parts[static_cast<std::size_t>(r)] =
        row(ref + r * cols, x + r * cols, static_cast<std::size_t>(cols));
  // Added in order, so that the result doesn't depend on the number of threads.
  Energy total;
  for (const Energy& part : parts) {
    total.reference += part.reference;
    total.error += part.error;
  }
  return total;
}

}  // namespace sotto::models
#endif  // HWY_ONCE

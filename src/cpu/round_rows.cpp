#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/round_rows.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h includes this file once per target; what follows sees a target's namespace.
#include "cpu/round_rows.h"

#include <cstring>

#include "core/element.h"
#include "cpu/convert-inl.h"
#include "cpu/reduce_rows.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {
namespace {

// Division by a known number, with the bits of a division.
class Quotient {
 public:
  explicit Quotient(float divisor) : divisor_(divisor), reciprocal_(1.0f / divisor) {}

  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {
#if HWY_NATIVE_FMA
    // Correctly rounded as long as nothing underflows (Markstein 1990; Brisebarre, Muller and
    // Raina, "Accelerating correctly rounded floating-point division when the divisor is known in
    // advance", 2004).
    const auto q = hn::Mul(x, hn::Set(d, reciprocal_));
    const auto excess = hn::MulSub(q, hn::Set(d, divisor_), x);  // so signed that -0 stays -0
    return hn::NegMulAdd(excess, hn::Set(d, reciprocal_), q);
#else
    return hn::Div(x, hn::Set(d, divisor_));
#endif
  }

 private:
  float divisor_, reciprocal_;
};

// What rounds to at most the largest number of the format.
template <class T>
constexpr float largest_in_range() {
  if constexpr (std::is_same_v<T, e4m3>) return 448.001f;
  if constexpr (std::is_same_v<T, std::int8_t>) return 127.25f;
  if constexpr (std::is_same_v<T, f16>) return 65504.0f;
  return std::bit_cast<float>(0x7f7f0000u);
}

template <class T>
bool in_range(float amax, bool finite, float descale) {
  // Of other scales a quotient could underflow where Quotient needs it.
  return finite && descale >= 0x1p-64f && descale <= 0x1p64f &&
         amax <= largest_in_range<T>() * descale;
}

// Lambdas capture copies: with references every store of bytes would make the compiler load them
// again.
template <class In, class Out>
HWY_INLINE void round_row(const In* in, std::int64_t dim, float descale, Out* out, e4m3* lo) {
  const Quotient quotient(descale);
  const auto scaled = [=](auto d, std::int64_t i) HWY_ATTR {
    if constexpr (sizeof(Out) == 1) return quotient(d, load(d, in + i));
    return load(d, in + i);
  };
  for_each_vector(
      dim, [=](auto d, std::int64_t i) HWY_ATTR { store_in_range(d, scaled(d, i), out + i); });
  if constexpr (std::is_same_v<Out, e4m3>) {
    if (lo == nullptr) return;
    for_each_vector(dim, [=](auto d, std::int64_t i) HWY_ATTR {
      const auto largest = hn::Set(d, e4m3::kMax);  // which the quotient may pass by its rounding
      const auto limited = hn::Clamp(scaled(d, i), hn::Neg(largest), largest);
      store_in_range(d, hn::Sub(limited, load(d, out + i)), lo + i);
    });
  }
}

// The same for rows with anything in them.
template <class In, class Out>
HWY_NOINLINE void round_any_row(const In* in, std::int64_t dim, float descale, Out* out, e4m3* lo) {
  for_each_vector(dim, [&](auto d, std::int64_t i) HWY_ATTR {
    auto x = load(d, in + i);
    if constexpr (sizeof(Out) == 1) x = hn::Div(x, hn::Set(d, descale));
    store(d, x, out + i);
    if constexpr (std::is_same_v<Out, e4m3>) {
      if (lo == nullptr) return;
      const auto largest = hn::Set(d, e4m3::kMax);
      const auto limited = hn::Clamp(x, hn::Neg(largest), largest);
      const auto error = hn::Sub(hn::IfThenElse(hn::Eq(x, x), limited, x), load(d, out + i));
      store(d, error, lo + i);
    }
  });
}

template <class In, class Out>
void round_rows_to(const RowGrid& in, const RowCounts& counts, const RowRanges& ranges,
                   const float* descale, const RowGrid& out, const RowGrid& lo) {
  for (std::int64_t token = 0, r = 0; token < counts.tokens; ++token) {
    for (std::int64_t head = 0; head < counts.heads; ++head, ++r) {
      const In* from = reinterpret_cast<const In*>(in.row(token, head));
      Out* to = reinterpret_cast<Out*>(out.row(token, head));
      e4m3* rest = lo.data != nullptr ? reinterpret_cast<e4m3*>(lo.row(token, head)) : nullptr;
      const float scale = descale != nullptr ? descale[r] : 1.0f;
      if (!in_range<Out>(ranges.amax[r], ranges.finite[r], scale)) {
        round_any_row(from, counts.dim, scale, to, rest);
      } else if constexpr (std::is_same_v<In, Out>) {
        std::memcpy(to, from, static_cast<std::size_t>(counts.dim) * sizeof(Out));
      } else {
        round_row(from, counts.dim, scale, to, rest);
      }
    }
  }
}

void round_rows_in_vectors(const RowGrid& in, const RowCounts& counts, const RowRanges& ranges,
                           const float* descale, const RowGrid& out, const RowGrid& lo) {
  with_float_type(in.dtype, [&]<class In>(In) HWY_ATTR {
    core::with_element_type(out.dtype, [&]<class Out>(Out) HWY_ATTR {
      round_rows_to<In, Out>(in, counts, ranges, descale, out, lo);
    });
  });
}

}  // namespace
}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(round_rows_in_vectors);

void round_rows(const RowGrid& in, const RowCounts& counts, const RowRanges& ranges,
                const float* descale, const RowGrid& out, const RowGrid& lo) {
  HWY_DYNAMIC_DISPATCH(round_rows_in_vectors)(in, counts, ranges, descale, out, lo);
}

void round_row(const float* row, std::int64_t dim, float descale, Dtype dtype, std::byte* out) {
  const RowCounts counts{1, 1, dim};
  const RowGrid in = contiguous_rows(const_cast<float*>(row), counts);
  float amax;
  bool finite;
  const RowRanges range{&amax, &finite};
  measure_rows(in, counts, range);
  round_rows(in, counts, range, &descale, {.dtype = dtype, .data = out});
}

}  // namespace sotto::cpu
#endif

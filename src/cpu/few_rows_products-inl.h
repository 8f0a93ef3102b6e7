// How attention with few query rows reads K and V and multiplies them with Q and P: in fp32 on
// every target, in bf16 where the CPU can. Included once per SIMD target.
#if defined(SOTTO_CPU_FEW_ROWS_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SOTTO_CPU_FEW_ROWS_PRODUCTS_INL_H_
#undef SOTTO_CPU_FEW_ROWS_PRODUCTS_INL_H_
#else
#define SOTTO_CPU_FEW_ROWS_PRODUCTS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "core/element.h"
#include "cpu/convert-inl.h"
#include "cpu/few_rows_avx512-inl.h"
#include "cpu/math-inl.h"
#include "sotto/backend.h"

SOTTO_BEFORE_FEW_ROWS_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

constexpr std::int64_t kLanes = hn::MaxLanes(F32());

// Numbers of type T as vectors of fp32: a block of kVecs vectors. Where does number d of the block
// go? To lane place(d) % kLanes of vector place(d) / kLanes.
template <class T>
struct Floats {
  static constexpr int kVecs = 1;
  static std::int64_t place(std::int64_t d) { return d; }
  static HWY_INLINE void load(const T* in, std::int64_t, Vec (&x)[kVecs]) {
    x[0] = sotto::cpu::HWY_NAMESPACE::load(F32(), in);
  }
};

#if HWY_TARGET == HWY_AVX3_DL
template <>
struct Floats<e4m3> {
  static constexpr int kVecs = 4;
  static std::int64_t place(std::int64_t d) {
    const std::int64_t word = place_of_widened(d);  // even words first, then the odd ones
    return word / 32 * 32 + word % 2 * 16 + word % 32 / 2;
  }
  static HWY_INLINE void load(const e4m3* in, std::int64_t left, Vec (&x)[kVecs]) {
    __m512i words[2];
    load_bf16(in, left, words);
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int i = 0; i < 2; ++i) {
      x[2 * i] = Vec{_mm512_castsi512_ps(_mm512_slli_epi32(words[i], 16))};
      x[2 * i + 1] = Vec{_mm512_castsi512_ps(_mm512_and_si512(words[i], high))};
    }
  }
};
#endif

// Products of Q and K in fp32.
template <class T>
struct FloatProducts {
  using Key = T;
  using Number = float;  // of Q
  using Operand = Vec;
  static constexpr int kVecs = Floats<T>::kVecs;
  static constexpr std::int64_t kDims = kVecs * kLanes;
  static std::int64_t place(std::int64_t d) { return Floats<T>::place(d); }
  static HWY_INLINE Operand load_query(const float* q) { return hn::Load(F32(), q); }
  static HWY_INLINE void load_key(const T* in, std::int64_t left, Operand (&k)[kVecs]) {
    Floats<T>::load(in, left, k);
  }
  static HWY_INLINE Vec multiply_add(Operand q, Operand k, Vec sum) {
    return hn::MulAdd(q, k, sum);
  }
};

// Products of P and V in fp32.
template <class T>
struct FloatValues {
  using Value = T;
  using Weight = float;  // of P
  using Operand = Vec;
  static constexpr int kKeys = 1;  // at a time
  static constexpr int kVecs = Floats<T>::kVecs;
  static constexpr std::int64_t kDims = kVecs * kLanes;
  static std::int64_t place(std::int64_t d) { return Floats<T>::place(d); }
  static HWY_INLINE void load_values(const T* const (&in)[1], std::int64_t left,
                                     Operand (&x)[kVecs]) {
    Floats<T>::load(in[0], left, x);
  }
  static HWY_INLINE Operand load_weights(const float* p) { return hn::Set(F32(), *p); }
  static HWY_INLINE Vec multiply_add(Operand weight, Operand x, Vec sum) {
    return hn::MulAdd(weight, x, sum);
  }
  static HWY_INLINE Vec round(Vec p) { return p; }
  static HWY_INLINE void store_weights(Vec p, float* out) { hn::Store(p, F32(), out); }
};

// Whether all numbers of these formats are bf16 numbers, and the CPU multiplies those.
HWY_INLINE bool fits_bf16_products(std::initializer_list<Dtype> dtypes) {
#if HWY_TARGET == HWY_AVX3_DL
  return __builtin_cpu_supports("avx512bf16") &&
         std::all_of(dtypes.begin(), dtypes.end(),
                     [](Dtype dtype) { return dtype == Dtype::bf16 || core::is_quantized(dtype); });
#else
  return (void)dtypes, false;
#endif
}

// Calls f with the kind of products that Q and K get.
template <class F>
HWY_INLINE void with_products(const Problem& problem, F&& f) {
#if HWY_TARGET == HWY_AVX3_DL
  if (fits_bf16_products({problem.dtype_q, problem.dtype_k})) {
    if (problem.dtype_k == Dtype::e4m3) return f(Bf16Products<e4m3>());
    if (problem.dtype_k == Dtype::i8) return f(Bf16Products<std::int8_t>());
    return f(Bf16Products<bf16>());
  }
#endif
  core::with_element_type(problem.dtype_k, [&]<class T>(T) { f(FloatProducts<T>()); });
}

// Calls f with the kind of products that P and V get. In bf16 where Q and K are, too: P is rounded
// to bf16 then.
template <class F>
HWY_INLINE void with_values(const Problem& problem, F&& f) {
#if HWY_TARGET == HWY_AVX3_DL
  if (fits_bf16_products({problem.dtype_q, problem.dtype_k, problem.dtype_v})) {
    if (problem.dtype_v == Dtype::e4m3) return f(Bf16Values<e4m3>());
    return f(Bf16Values<bf16>());
  }
#endif
  if (problem.dtype_v == Dtype::e4m3) return f(FloatValues<e4m3>());
  if (problem.dtype_v == Dtype::f16) return f(FloatValues<f16>());
  if (problem.dtype_v == Dtype::bf16) return f(FloatValues<bf16>());
  f(FloatValues<float>());
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

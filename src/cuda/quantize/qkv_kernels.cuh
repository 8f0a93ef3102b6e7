// The definitions behind qkv_kernels.h; each instance is compiled in a file of its own.
#pragma once

#include "cuda/quantize/means.cuh"
#include "cuda/quantize/qkv_kernels.h"
#include "cuda/quantize/statistics.cuh"
#include "cuda/quantize/write.cuh"

namespace sotto::cuda {

template <int kWidth, class Element>
QkvKernels qkv_kernels() {
  static_assert(Group<kWidth>::kBlockThreads == kQkvThreads);
  static_assert(kMeansThreads == kQkvMeansThreads);
  return {reinterpret_cast<const void*>(means_kernel<Element>),
          reinterpret_cast<const void*>(statistics_kernel<kWidth, Element>),
          sizeof(StatisticsStorage<kWidth, Element>),
          reinterpret_cast<const void*>(write_kernel<kWidth, Element, AnyFeatures>),
          sizeof(WriteStorage<kWidth, Element, AnyFeatures>)};
}

template <class Element, RopeKind kRope, int kHadamard, bool kInt8>
const void* fixed_writer() {
  using Features = FixedFeatures<kRope, kHadamard, kInt8>;
  static_assert(sizeof(WriteStorage<kFixedWidth, Element, Features>) ==
                sizeof(WriteStorage<kFixedWidth, Element, AnyFeatures>));
  return reinterpret_cast<const void*>(write_kernel<kFixedWidth, Element, Features>);
}

template <class Element, RopeKind kRope>
FixedWriters fixed_writers() {
  return {{{fixed_writer<Element, kRope, 0, false>(), fixed_writer<Element, kRope, 0, true>()},
           {fixed_writer<Element, kRope, kFixedWidth, false>(),
            fixed_writer<Element, kRope, kFixedWidth, true>()}}};
}

}  // namespace sotto::cuda

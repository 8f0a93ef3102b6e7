#include "bench/roofs.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include <oneapi/dnnl/dnnl.hpp>

namespace sotto::cli {
namespace {

using dnnl::memory;

constexpr double kSecondsEach = 0.3;
constexpr int kTries = 3;  // at least

template <class F>
double best_seconds(F&& f) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  f();  // warm-up
  double best = std::numeric_limits<double>::infinity();
  const auto begin = Clock::now();
  for (int i = 0; i < kTries || seconds_since(begin) < kSecondsEach; ++i) {
    const auto start = Clock::now();
    f();
    best = std::min(best, seconds_since(start));
  }
  return best;
}

// 0 where oneDNN has no such product on this CPU.
double matrix_gflops(memory::data_type a, memory::data_type b, memory::data_type c) {
  constexpr memory::dim kSize = 2048;
  using Tag = memory::format_tag;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const memory::desc plain({kSize, kSize}, a, Tag::ab), any({kSize, kSize}, b, Tag::any);
    const memory::desc result({kSize, kSize}, c, Tag::ab);
    const dnnl::matmul::primitive_desc description({plain, any, result}, engine);
    const dnnl::matmul product(description);
    memory src(plain, engine), weights(description.weights_desc(), engine), dst(result, engine);
    for (const memory* operand : {&src, &weights})  // a pattern that is a small number in each type
      std::memset(operand->get_data_handle(), 0x3c, operand->get_desc().get_size());
    const double seconds = best_seconds([&] {
      product.execute(stream,
                      {{DNNL_ARG_SRC, src}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, dst}});
      stream.wait();
    });
    return 2e-9 * kSize * kSize * kSize / seconds;
  } catch (const dnnl::error&) {
    return 0;
  }
}

constexpr std::size_t kBytes = std::size_t{256} << 20;  // more than any cache

void measure_memory(Roofs& roofs) {
  constexpr std::int64_t kWords = kBytes / sizeof(std::uint64_t);
  const std::unique_ptr<std::uint64_t[]> from(new std::uint64_t[kWords]),
      to(new std::uint64_t[kWords]);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < kWords; ++i) {
    from[static_cast<std::size_t>(i)] = static_cast<std::uint64_t>(i);
    to[static_cast<std::size_t>(i)] = 0;
  }
  const std::uint64_t* words = from.get();
  volatile std::uint64_t sink = 0;  // the sum is wanted
  roofs.read = 1e-9 * kBytes / best_seconds([&] {
                 std::uint64_t sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
                 for (std::int64_t i = 0; i < kWords; ++i) sum += words[i];
                 sink = sum;
               });
  roofs.copy = 2e-9 * kBytes / best_seconds([&] {
  // One large block a thread: memcpy then writes around the caches.
#pragma omp parallel
                 {
                   const std::size_t threads = static_cast<std::size_t>(omp_get_num_threads());
                   const std::size_t part = kBytes / sizeof(std::uint64_t) / threads;
                   const std::size_t begin = part * static_cast<std::size_t>(omp_get_thread_num());
                   std::memcpy(to.get() + begin, words + begin, part * sizeof(std::uint64_t));
                 }
               });
}

}  // namespace

Roofs measure_roofs() {
  using Type = memory::data_type;
  Roofs roofs;
  roofs.matrix_f32 = matrix_gflops(Type::f32, Type::f32, Type::f32);
  roofs.matrix_bf16 = matrix_gflops(Type::bf16, Type::bf16, Type::f32);
  roofs.matrix_i8 = matrix_gflops(Type::u8, Type::s8, Type::s32);
  measure_memory(roofs);
  return roofs;
}

}  // namespace sotto::cli

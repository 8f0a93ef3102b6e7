#include "bench/gpu.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/aligned_buffer.h"
#include "cuda/error.h"

namespace sotto::cli {
namespace {

using cuda::check;

struct DestroyEvent {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "making an event");
  return Event(event);
}

// Seconds of each of `count` calls, back to back.
std::vector<double> time_burst(const std::function<void()>& call, std::int64_t count) {
  std::vector<Event> events;
  for (std::int64_t i = 0; i <= count; ++i) events.push_back(make_event());
  check(cudaEventRecord(events.front().get()), "recording an event");
  for (std::int64_t i = 1; i <= count; ++i) {
    call();
    check(cudaEventRecord(events[static_cast<std::size_t>(i)].get()), "recording an event");
  }
  check(cudaEventSynchronize(events.back().get()), "running a case");
  std::vector<double> seconds;
  for (std::size_t i = 1; i < events.size(); ++i) {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, events[i - 1].get(), events[i].get()), "reading an event");
    seconds.push_back(1e-3 * static_cast<double>(ms));
  }
  return seconds;
}

int attribute(cudaDeviceAttr name, const Device& device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device.index), "asking the device");
  return value;
}

double copy_gbps(const Device& device) {
  constexpr std::size_t kBytes = std::size_t{1} << 30;  // more than any cache
  const core::AlignedBuffer from(kBytes, device), to(kBytes, device);
  check(cudaMemset(from.span().data(), 1, kBytes), "filling memory");
  const Measurement copies = measure_on_gpu(
      [&] {
        check(
            cudaMemcpyAsync(to.span().data(), from.span().data(), kBytes, cudaMemcpyDeviceToDevice),
            "copying memory");
      },
      {.warmup = 2, .repeats = 10});
  return 2e-9 * kBytes / copies.median();
}

}  // namespace

void use_gpu(const Device& device) { check(cudaSetDevice(device.index), to_string(device)); }

void upload(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the device");
}

Measurement measure_on_gpu(const std::function<void()>& call, const MeasureOptions& options) {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kBurst = 10;
  const auto begin = Clock::now();
  const auto in_time = [&] {
    return std::chrono::duration<double>(Clock::now() - begin).count() <= options.max_seconds;
  };
  const auto repeat = [&](std::int64_t count, std::vector<double>& seconds) {
    for (std::int64_t done = 0; done < count && (done == 0 || in_time());) {
      const std::int64_t burst = std::min(kBurst, count - done);
      const std::vector<double> times = time_burst(call, burst);
      seconds.insert(seconds.end(), times.begin(), times.end());
      done += burst;
    }
  };
  Measurement result;
  std::vector<double> warmup;
  repeat(options.warmup, warmup);
  repeat(options.repeats, result.seconds);
  return result;
}

Roofs gpu_roofs(const Device& device) {
  Roofs roofs;
  roofs.nominal = true;
  roofs.read = roofs.copy = copy_gbps(device);
  if (attribute(cudaDevAttrComputeCapabilityMajor, device) != 9) return roofs;
  const double gigaclocks = 1e-6 * attribute(cudaDevAttrClockRate, device) *
                            attribute(cudaDevAttrMultiProcessorCount, device);
  // Operations per clock and multiprocessor on Hopper, a fused multiply-add counting two.
  roofs.matrix_f32 = 256 * gigaclocks;
  roofs.matrix_bf16 = 4096 * gigaclocks;
  roofs.matrix_f8 = roofs.matrix_i8 = 8192 * gigaclocks;
  return roofs;
}

}  // namespace sotto::cli

// What a planned run costs beside the GPU's work: allocations, and time of the calling thread.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "counting_new.h"
#include "gpu_case.h"

namespace sotto::test {
namespace {

class Cost : public OnGpu {};

// On the host; on the GPU a capture would refuse it (graph_test.cpp).
TEST_F(Cost, ARunAllocatesNothing) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    GpuCase gpu_case(line);
    const Plan plan(gpu_case);
    const Workspace workspace = gpu_case.workspace(plan.workspace_size());
    plan.run(gpu_case, workspace);  // loads the kernels
    finish_gpu();
    const std::int64_t before = allocations();
    for (int n = 0; n < 10; ++n) plan.run(gpu_case, workspace);
    EXPECT_EQ(allocations() - before, 0) << "in 10 runs";
    finish_gpu();
  }
}

// Printed, not judged: the machine's processor and driver have the greater part in it. On a stream
// of its own, for launches on the default one cost more; in batches that the queue has room for, so
// that none waits for the GPU.
TEST_F(Cost, TimeOfTheCallingThreadPerRun) {
  using Clock = std::chrono::steady_clock;
  constexpr int kBatches = 41, kRuns = 50;
  for (const std::string& line : kinds()) {
    GpuCase gpu_case(line);
    const Plan plan(gpu_case);
    const Workspace workspace = gpu_case.workspace(plan.workspace_size());
    const CudaStream stream;
    finish_gpu();
    std::vector<double> microseconds;
    for (int batch = 0; batch < kBatches; ++batch) {
      const auto begin = Clock::now();
      for (int n = 0; n < kRuns; ++n) plan.run(gpu_case, workspace, stream);
      const std::chrono::duration<double, std::micro> spent = Clock::now() - begin;
      microseconds.push_back(spent.count() / kRuns);
      finish_gpu();
    }
    std::sort(microseconds.begin(), microseconds.end());
    fmt::print("{:6.2f} us of the CPU's time (least {:.2f}): {}\n", microseconds[kBatches / 2],
               microseconds.front(), line);
  }
}

}  // namespace
}  // namespace sotto::test

// Several runs at once, on streams and devices, and the same run many times.
#include <thread>

#include "gpu_case.h"

namespace sotto::test {
namespace {

class Streams : public OnGpu {};

TEST_F(Streams, OnePlanRunsOnTwoAtOnce) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    GpuCase a(line), b(with_other_data(line));
    const Plan plan(a);
    run_simply(a);
    run_simply(b);
    const std::vector<std::byte> expected_a = a.result(), expected_b = b.result();
    const Workspace workspace_a = a.workspace(plan.workspace_size());
    const Workspace workspace_b = b.workspace(plan.workspace_size());
    const CudaStream stream_a, stream_b;
    a.spoil_result();
    b.spoil_result();
    for (int n = 0; n < 50; ++n) {
      plan.run(a, workspace_a, stream_a);
      plan.run(b, workspace_b, stream_b);
    }
    EXPECT_EQ(a.result(), expected_a);
    EXPECT_EQ(b.result(), expected_b);
  }
}

// Convenience calls take their workspace in the stream's order.
TEST_F(Streams, ConvenienceCallsOnTwoAtOnce) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    const GpuCase a(line), b(with_other_data(line));
    run_simply(a);
    run_simply(b);
    const std::vector<std::byte> expected_a = a.result(), expected_b = b.result();
    const CudaStream stream_a, stream_b;
    a.spoil_result();
    b.spoil_result();
    for (int n = 0; n < 20; ++n) {
      run_simply(a, stream_a);
      run_simply(b, stream_b);
    }
    EXPECT_EQ(a.result(), expected_a);
    EXPECT_EQ(b.result(), expected_b);
  }
}

TEST_F(Streams, AThousandRunsGiveTheSameBits) {
  for (const std::string& kind : kinds()) {
    SCOPED_TRACE(kind);
    GpuCase gpu_case(kind);
    const Plan plan(gpu_case);
    const Workspace workspace = gpu_case.workspace(plan.workspace_size());
    plan.run(gpu_case, workspace);
    const std::vector<std::byte> expected = gpu_case.result();
    for (int n = 1; n < 1000; ++n) {
      fill_bytes(workspace.data(), n & 0xff, workspace.size());
      plan.run(gpu_case, workspace);
      ASSERT_EQ(gpu_case.result(), expected) << "run " << n;
    }
  }
}

// A thread that has not used the GPU before.
TEST_F(Streams, APlanRunsOnAnotherThread) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    GpuCase gpu_case(line);
    const Plan plan(gpu_case);
    const Workspace workspace = gpu_case.workspace(plan.workspace_size());
    plan.run(gpu_case, workspace);
    const std::vector<std::byte> expected = gpu_case.result();
    gpu_case.spoil_result();
    std::string error;
    std::thread([&] {
      try {
        plan.run(gpu_case, workspace);
      } catch (const Error& thrown) {
        error = thrown.what();
      }
    }).join();
    EXPECT_EQ(error, "");
    EXPECT_EQ(gpu_case.result(), expected);
  }
}

// The device of the tensors counts, not the current one, which stays as it was.
TEST_F(Streams, TensorsOfAnotherDeviceThanTheCurrentOne) {
  int devices = 0;
  cuda::check(cudaGetDeviceCount(&devices), "counting devices");
  if (devices < 2) GTEST_SKIP() << "no device: a second one is needed";
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    cuda::check(cudaSetDevice(0), "device 0");
    const GpuCase here(line);
    run_simply(here);
    const std::vector<std::byte> expected = here.result();
    here.spoil_result();
    cuda::check(cudaSetDevice(1), "device 1");
    GpuCase there(line);
    run_simply(there);
    EXPECT_EQ(there.result(), expected);
    run_simply(here);
    EXPECT_EQ(current_gpu(), 1);
    cuda::check(cudaSetDevice(0), "device 0");
    EXPECT_EQ(here.result(), expected);

    // Memory of one said to be the other's.
    AttentionArgs args = there.args;
    args.q.data = here.args.q.data;
    EXPECT_THROW(there.c.recipe ? sdpa(args, there.options) : attention(args), InvalidArgument);
  }
}

}  // namespace
}  // namespace sotto::test

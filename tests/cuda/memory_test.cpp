// Memory that does not do: of the host, misaligned, too small, or not there.
#include <fmt/format.h>

#include <memory>

#include "gpu_case.h"

namespace sotto::test {
namespace {

class Memory : public OnGpu {};

// The text of the Error that a call ends with; empty: it went well.
template <class F>
std::string error_of(F&& call) {
  try {
    call();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::string error_of(const GpuCase& gpu_case, const AttentionArgs& args) {
  return error_of([&] {
    if (gpu_case.c.recipe) {
      sdpa(args, gpu_case.options);
    } else {
      attention(args);
    }
  });
}

TEST_F(Memory, OfTheHostIsRefusedByName) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    const GpuCase gpu_case(line);
    std::vector<std::byte> host(1 << 24);
    AttentionArgs args = gpu_case.args;
    core::each_tensor(args, [&](const char* name, core::Access, Tensor& tensor) {
      if (!tensor) return;
      void* const before = std::exchange(tensor.data, host.data());
      const std::string error = error_of(gpu_case, args);
      EXPECT_NE(error.find(std::string(name) + ": must be memory of cuda:0"), std::string::npos)
          << name << ": '" << error << "'";
      tensor.data = before;
    });
    finish_gpu();  // nothing was launched on it
  }
}

TEST_F(Memory, OfADeviceThatIsNotThereIsRefused) {
  const GpuCase gpu_case(kinds().front());
  AttentionArgs args = gpu_case.args;
  core::each_tensor(args, [&](const char*, core::Access, Tensor& tensor) {
    tensor.device = {DeviceType::cuda, 77};
  });
  EXPECT_NE(error_of(gpu_case, args).find("cuda:77"), std::string::npos);
}

// A tensor one element further: a result as good as ever, or an error.
TEST_F(Memory, MisalignedTensorsAreFineOrRefused) {
  for (const std::string& line : kinds()) {
    const GpuCase aligned(line);
    run_simply(aligned);
    const Plan plan(aligned);
    for (const char* which : {"q", "k", "v", "out"}) {
      GpuCase moved(line);
      std::shared_ptr<std::byte> memory;
      core::each_tensor(moved.args, [&](const char* name, core::Access, Tensor& tensor) {
        if (std::string_view(name) != which) return;
        const auto bytes = static_cast<std::size_t>(tensor.numel() * dtype_size(tensor.dtype));
        const auto shift = static_cast<std::size_t>(dtype_size(tensor.dtype));
        memory = allocate_on_gpu(bytes + shift);
        copy_bytes(memory.get() + shift, tensor.at(0), bytes);
        tensor.data = memory.get() + shift;
      });
      const Workspace workspace = moved.workspace(plan.workspace_size());
      for (const bool planned : {false, true}) {  // by a plan that was made for aligned ones
        moved.spoil_result();
        const std::string error = error_of([&] {
          planned ? plan.run(moved, workspace) : run_simply(moved);
          finish_gpu();
        });
        if (error.empty()) {
          EXPECT_GT(difference_db(aligned, moved), 30) << line << ", " << which;
        } else {
          EXPECT_NE(error.find(which), std::string::npos) << line << ": " << error;
          EXPECT_EQ(error.find("cuda"), std::string::npos) << "not CUDA's error: " << error;
        }
        finish_gpu();
      }
    }
  }
}

// Rows of odd strides where the plan saw contiguous ones.
TEST_F(Memory, OddStridesAreFineOrRefused) {
  for (const std::string& line : kinds()) {
    const GpuCase contiguous(line), strided(line + " strided");
    const Plan plan(contiguous);
    Mirror mirror(kBackend);
    const Workspace workspace = mirror.workspace(plan.workspace_size());
    const std::string error = error_of([&] {
      plan.run(strided, workspace);
      finish_gpu();
    });
    if (!error.empty()) {
      EXPECT_NE(error.find("stride"), std::string::npos) << line << ": " << error;
    }
    finish_gpu();
  }
}

TEST_F(Memory, WorkspaceMustDo) {
  for (const std::string& line : kinds()) {
    SCOPED_TRACE(line);
    GpuCase gpu_case(line);
    const Plan plan(gpu_case);
    const std::size_t size = plan.workspace_size();
    if (size == 0) continue;
    const Workspace good = gpu_case.workspace(size + 64);
    std::vector<std::byte> host(size + 64);
    const auto misaligned = reinterpret_cast<std::uintptr_t>(host.data()) % 64;
    for (const Workspace& bad : {Workspace(good.data(), size - 1), Workspace(good.data() + 8, size),
                                 Workspace(static_cast<std::byte*>(nullptr), size),
                                 Workspace(host.data() + (64 - misaligned) % 64, size)}) {
      const std::string error = error_of([&] { plan.run(gpu_case, bad); });
      EXPECT_TRUE(error.starts_with("workspace: ")) << error;
    }
    EXPECT_NO_THROW(plan.run(gpu_case, Workspace(good.data(), size)));
    EXPECT_NO_THROW(finish_gpu());
  }
}

// The convenience calls where the GPU's memory is full.
TEST_F(Memory, ThatRunsOutIsSaidInBytes) {
  constexpr std::int64_t kLen = 16384, kHeads = 32, kDim = 128;
  constexpr std::size_t kBytes = kLen * kHeads * kDim * 2;
  std::vector<std::shared_ptr<std::byte>> memory;
  std::vector<Tensor> tensors;
  const Device device{DeviceType::cuda, current_gpu()};
  for (int n = 0; n < 4; ++n) {
    memory.push_back(allocate_on_gpu(kBytes));
    fill_bytes(memory.back().get(), 0, kBytes);
    tensors.emplace_back(memory.back().get(), Dtype::bf16,
                         std::initializer_list<std::int64_t>{1, kLen, kHeads, kDim}, device);
  }
  const AttentionArgs args{
      .q = tensors[0], .k = tensors[1], .v = tensors[2], .out = tensors[3], .backend = kBackend};
  const std::size_t needed = SdpaPlan(args).workspace_size();
  ASSERT_GT(needed, std::size_t{64} << 20);

  std::vector<void*> hog;
  for (std::size_t chunk = std::size_t{1} << 36; chunk >= std::size_t{1} << 20; chunk /= 2) {
    void* block = nullptr;
    while (cudaMalloc(&block, chunk) == cudaSuccess) hog.push_back(block);
    cudaGetLastError();
  }
  const std::string error = error_of([&] { sdpa(args); });
  for (void* block : hog) cudaFree(block);
  EXPECT_NE(error.find(fmt::format("workspace: {} bytes could not be allocated on cuda:", needed)),
            std::string::npos)
      << error;
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the error is left behind";
  EXPECT_NO_THROW(sdpa(args));
  EXPECT_NO_THROW(finish_gpu());
}

}  // namespace
}  // namespace sotto::test

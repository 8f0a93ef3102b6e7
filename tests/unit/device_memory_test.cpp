// Requests on GPU tensors in core, on a machine that may have no GPU.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/aligned_buffer.h"
#include "core/each_tensor.h"

namespace sotto {
namespace {

constexpr Device kGpu{DeviceType::cuda, 0};

// Takes everything, and would compute on a GPU.
class GpuBackend final : public Backend {
 public:
  class Kernel final : public AttentionKernel {
   public:
    std::size_t workspace_size() const override { return 1000; }
    void run(const AttentionArgs&, Workspace, Stream) const override { ADD_FAILURE() << "ran"; }
  };
  std::string_view name() const override { return "needs-a-gpu"; }
  std::string_view description() const override { return "for a test"; }
  int priority() const override { return -1; }
  Reasons refuse(const Problem&) const override { return {}; }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs&, const Problem&) const override {
    return std::make_unique<Kernel>();
  }
};

TEST(DeviceMemory, ConvenienceCallsSayWhatTheyCouldNotAllocate) {
  backends::add(std::make_shared<GpuBackend>());
  std::vector<float> host(16), result(16);
  const Tensor tensor(host.data(), Dtype::f32, {1, 1, 1, 16}, kGpu);
  const Tensor out(result.data(), Dtype::f32, {1, 1, 1, 16}, kGpu);
  const AttentionArgs args{
      .q = tensor, .k = tensor, .v = tensor, .out = out, .backend = "needs-a-gpu"};
  try {
    attention(args);
    ADD_FAILURE() << "this is host memory";
  } catch (const Error& error) {
    const std::string text = error.what();
    // Where there is a GPU, there is a workspace, and the tensors are the ones at fault.
    EXPECT_TRUE(text.find("1000 bytes could not be allocated on cuda:0") != text.npos ||
                text.find("q: must be memory of cuda:0") != text.npos)
        << text;
  }
  backends::remove("needs-a-gpu");
}

TEST(DeviceMemory, HostBackendsRefuseItWithoutLookingAtIt) {
  const Tensor nowhere(reinterpret_cast<void*>(std::uintptr_t{64}), Dtype::f32, {1, 1, 1, 16},
                       kGpu);
  const Tensor lengths(reinterpret_cast<void*>(std::uintptr_t{64}), Dtype::i32, {1}, kGpu);
  AttentionArgs args{.q = nowhere, .k = nowhere, .v = nowhere, .out = nowhere};
  args.out.data = static_cast<std::byte*>(args.out.data) + 64;
  args.seq.seqused_k = lengths;
  for (const char* backend : {"cpu", "reference"}) {
    args.backend = backend;
    EXPECT_THROW(attention(args), Unsupported);
    EXPECT_THROW(sdpa(args), Unsupported);
    for (const Explanation& explanation : {explain(args), explain(args, SdpaOptions{})}) {
      for (const BackendAnswer& answer : explanation.answers) {
        EXPECT_TRUE(answer.backend != backend || !answer.reasons.empty());
      }
    }
  }
}

TEST(DeviceMemory, AnEmptyBufferTakesNone) {
  EXPECT_EQ(core::AlignedBuffer(0, kGpu).span().data(), nullptr);
}

// check_pointers() and the tests' copies rely on it.
TEST(EachTensor, GoesThroughEveryOneOnce) {
  AttentionArgs attention;
  QuantizeArgs quantize;
  ChannelMeanArgs channel_mean;
  AppendKvArgs append;
  SdpaOptions options;
  MergeArgs merge;
  merge.states.resize(1);
  const auto check = [](auto& args, std::size_t members) {
    std::set<const Tensor*> seen;
    std::set<std::string> names;
    core::each_tensor(args, [&](const char* name, core::Access, Tensor& tensor) {
      seen.insert(&tensor);
      names.insert(name);
    });
    EXPECT_EQ(seen.size(), members);
    EXPECT_EQ(names.size(), members);
  };
  check(attention, 27);
  check(quantize, 13);
  check(channel_mean, 9);
  check(append, 17);
  check(options, 4);
  check(merge, 6);
}

}  // namespace
}  // namespace sotto

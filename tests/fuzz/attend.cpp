// attention() and sdpa() with their data: the backends must agree on what is legal, before and
// after lengths and tables changed, and touch nothing beyond the tensors and the workspace.
#include <optional>

#include "requests.h"
#include "target.h"
#include "tests/conformance/aligned_memory.h"

using namespace sotto;

namespace {

constexpr std::size_t kMostWorkspace = 64 << 20;

// A plan of either kind with its workspace.
struct Runner {
  Runner(AttentionArgs args, const SdpaOptions* options, const char* backend) : options_(options) {
    args.backend = backend;
    if (options != nullptr) {
      sdpa_.emplace(args, *options);
    } else {
      attention_.emplace(args);
    }
    const std::size_t bytes = sdpa_ ? sdpa_->workspace_size() : attention_->workspace_size();
    if (bytes > kMostWorkspace) throw Error("more than a test needs");
    workspace_.emplace(bytes);
  }

  void run(const AttentionArgs& args) const {
    if (sdpa_) {
      sdpa_->run(args, *options_, workspace_->span());
    } else {
      attention_->run(args, workspace_->span());
    }
  }

 private:
  const SdpaOptions* options_;
  std::optional<AttentionPlan> attention_;
  std::optional<SdpaPlan> sdpa_;
  std::optional<test::AlignedMemory> workspace_;
};

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  fuzz::Memory memory(fuzz::Memory::Kind::exact, input.bits<std::uint32_t>());
  fuzz::Requests requests(input, memory);
  using For = fuzz::Requests::For;
  const bool sdpa = input.flag();
  AttentionArgs args = requests.attention(sdpa ? For::sdpa : For::attention);
  std::optional<SdpaOptions> options;
  if (sdpa) options = requests.sdpa_options();

  std::optional<Runner> cpu, reference;
  const auto plan = [&](std::optional<Runner>& runner, const char* name) {
    return fuzz::attempt([&] { runner.emplace(args, options ? &*options : nullptr, name); });
  };
  if (!plan(cpu, "cpu") || !plan(reference, "reference")) return 0;
  for (int time = 0; time < 2; ++time) {
    const bool legal = fuzz::attempt([&] { cpu->run(args); });
    fuzz::require(legal == fuzz::attempt([&] { reference->run(args); }),
                  "the backends agree on what is legal");
    requests.change_contents(args);
  }
  return 0;
}

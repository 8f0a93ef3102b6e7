#include "reference/backend.h"

#include "core/builtin.h"
#include "reference/quantize.h"

namespace sotto {
namespace {

class ReferenceKernel final : public AttentionKernel {
 public:
  explicit ReferenceKernel(const Problem& problem) : problem_(problem) {}

  std::size_t workspace_size() const override { return 0; }
  void run(const AttentionArgs& args, Workspace, Stream) const override {
    reference::attend(args, problem_);
  }

 private:
  Problem problem_;
};

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  std::string_view description() const override {
    return "float64, obvious and slow: the oracle of every test";
  }
  int priority() const override { return 0; }

  Reasons refuse(const Problem& problem) const override { return reference::refuse(problem); }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs&,
                                              const Problem& problem) const override {
    return std::make_unique<ReferenceKernel>(problem);
  }

  Reasons refuse(const QuantizeArgs& args) const override {
    return reference::refuse_device(args.x.device);
  }
  Reasons refuse(const ChannelMeanArgs& args) const override {
    return reference::refuse_device(args.x.device);
  }
  Reasons refuse(const AppendKvArgs& args) const override {
    return reference::refuse_device(args.k.device);
  }
  Reasons refuse(const MergeArgs& args) const override {
    return reference::refuse_device(args.out.device);
  }
  void run(const QuantizeArgs& args, Stream) const override { reference::quantize(args); }
  void run(const ChannelMeanArgs& args, Stream) const override { reference::channel_mean(args); }
  void run(const AppendKvArgs& args, Stream) const override { reference::append_kv(args); }
  void run(const MergeArgs& args, Stream) const override { reference::merge(args); }
};

}  // namespace

std::shared_ptr<const Backend> make_reference_backend() {
  return std::make_shared<ReferenceBackend>();
}

}  // namespace sotto

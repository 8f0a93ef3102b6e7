// Backend `cpu`: what it refuses is said in rules.cpp; each operation is in a file of its name.
#include <algorithm>

#include "core/builtin.h"
#include "cpu/append.h"
#include "cpu/attention.h"
#include "cpu/channel_mean.h"
#include "cpu/quantize.h"
#include "cpu/rows.h"

namespace sotto {
namespace {

class CpuBackend final : public Backend {
 public:
  std::string_view name() const override { return "cpu"; }
  std::string_view description() const override {
    return "flash attention on all cores, SIMD chosen at run time";
  }
  int priority() const override { return 10; }

  Reasons refuse(const Problem& problem) const override { return cpu::refuse(problem); }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs&,
                                              const Problem& problem) const override {
    return cpu::plan_attention(problem);
  }

  Reasons refuse(const QuantizeArgs& args) const override {
    return cpu::refuse_rows(args.x.device, cpu::dim_of(args.x));
  }
  Reasons refuse(const ChannelMeanArgs& args) const override {
    return cpu::refuse_rows(args.x.device, cpu::dim_of(args.x));
  }
  Reasons refuse(const AppendKvArgs& args) const override {
    return cpu::refuse_rows(args.k.device, std::max(cpu::dim_of(args.k), cpu::dim_of(args.v)));
  }
  Reasons refuse(const MergeArgs& args) const override {
    return cpu::refuse_device(args.out.device);
  }
  void run(const QuantizeArgs& args, Stream) const override { cpu::quantize(args); }
  void run(const ChannelMeanArgs& args, Stream) const override { cpu::channel_mean(args); }
  void run(const AppendKvArgs& args, Stream) const override { cpu::append_kv(args); }
  void run(const MergeArgs& args, Stream) const override { cpu::merge_states(args); }
};

}  // namespace

std::shared_ptr<const Backend> make_cpu_backend() { return std::make_shared<CpuBackend>(); }

}  // namespace sotto

// Backend `sm90`: what it refuses is said in rules.cpp and beside each kernel's plan.
#include "core/builtin.h"
#include "core/sdpa_composed.h"
#include "cuda/quantize/operations.h"
#include "cuda/sm90/fp8_attention.h"
#include "cuda/sm90/half_attention.h"
#include "cuda/sm90/rules.h"

namespace sotto {
namespace sm90 {
namespace {

bool is_8_bit(const Problem& p) {
  return (p.dtype_q == Dtype::e4m3 || p.dtype_q == Dtype::i8) && p.dtype_v == Dtype::e4m3;
}

bool is_16_bit(const Problem& p) {
  return (p.dtype_q == Dtype::bf16 || p.dtype_q == Dtype::f16) && p.dtype_k == p.dtype_q &&
         p.dtype_v == p.dtype_q;
}

void append(Reasons& to, Reasons more) {
  for (std::string& reason : more) to.push_back(std::move(reason));
}

class Sm90Backend final : public Backend {
 public:
  std::string_view name() const override { return "sm90"; }
  std::string_view description() const override {
    return "Hopper's tensor cores (wgmma) and copy engine: FP8, INT8 and 16 bits";
  }
  int priority() const override { return 100; }
  Reasons unusable() const override { return sm90::unusable(); }

  Reasons refuse(const Problem& problem) const override {
    Reasons reasons = refuse_common(problem);
    if (is_8_bit(problem)) {
      append(reasons, refuse_fp8(problem));
    } else if (is_16_bit(problem)) {
      append(reasons, refuse_half(problem));
    } else {
      reasons.push_back(
          "takes q, k, v of one 16-bit dtype, or of 8 bits: e4m3, or INT8 q and k with e4m3 v");
    }
    return reasons;
  }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs& args,
                                              const Problem& problem) const override {
    return is_8_bit(problem) ? plan_fp8(args, problem) : plan_half(args, problem);
  }

  Reasons refuse_sdpa(const AttentionArgs& args, const SdpaOptions& options) const override {
    if (!core::changes_inputs(options)) return Backend::refuse_sdpa(args, options);
    const Problem problem = describe(args);
    Reasons reasons = refuse_common(problem);
    append(reasons, refuse_fp8_sdpa(args, options, problem));
    return reasons;
  }
  std::unique_ptr<const SdpaKernel> plan_sdpa(const AttentionArgs& args,
                                              const SdpaOptions& options) const override {
    if (!core::changes_inputs(options)) return Backend::plan_sdpa(args, options);
    return plan_fp8_sdpa(args, options, describe(args));
  }

  using Backend::refuse;
  using Backend::run;
  Reasons refuse(const QuantizeArgs& args) const override {
    Reasons reasons = refuse_device(args.x.device);
    append(reasons, cuda::refuse(args));
    return reasons;
  }
  Reasons refuse(const ChannelMeanArgs& args) const override {
    Reasons reasons = refuse_device(args.x.device);
    append(reasons, cuda::refuse(args));
    return reasons;
  }
  void run(const QuantizeArgs& args, Stream stream) const override {
    cuda::run(args, static_cast<cudaStream_t>(stream.handle));
  }
  void run(const ChannelMeanArgs& args, Stream stream) const override {
    cuda::run(args, static_cast<cudaStream_t>(stream.handle));
  }
};

}  // namespace
}  // namespace sm90

std::shared_ptr<const Backend> make_sm90_backend() { return std::make_shared<sm90::Sm90Backend>(); }

}  // namespace sotto

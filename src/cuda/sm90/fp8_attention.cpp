#include "cuda/sm90/fp8_attention.h"

#include <fmt/format.h>

#include "core/validate.h"
#include "cuda/launch.h"
#include "cuda/quantize/prepare.h"
#include "cuda/quantize/qkv.h"
#include "cuda/sm90/launch.h"
#include "cuda/sm90/make_params.h"
#include "cuda/sm90/tensor_map.h"

namespace sotto::sm90 {
namespace {

// In front of whatever else a workspace holds.
constexpr std::size_t kCounterBytes = 256;

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

// Tensors as the kernels want them; see cuda/quantize/qkv.h.
struct Operands {
  Tensor q, k, v;
  Scale q_scale, k_scale, v_scale;
  const std::uint32_t* bad_keys;
};

// One kernel and how it is launched.
class Fp8Launcher {
 public:
  explicit Fp8Launcher(const Problem& problem)
      : problem_(problem),
        kernel_(*find_fp8_kernel(problem)),
        function_(cuda::function_of(kernel_.function, kernel_.shared_bytes)),
        multiprocessors_(multiprocessors(problem.device.index)) {}

  // `args`: everything but what is in `operands`.
  void run(const AttentionArgs& args, const Operands& operands, std::byte* counter,
           Stream stream) const {
    const Fp8Config& config = kernel_.config;
    Launch what;
    what.params = make_params(args, problem_, kernel_.rows, problem_.dim_qk + problem_.dim_v,
                              reinterpret_cast<unsigned*>(counter));
    what.params.q_scale =
        view_of(operands.q_scale, problem_.packed_q, problem_.heads_q / problem_.heads_kv);
    what.params.k_scale = view_of(operands.k_scale, problem_.packed_k, 1);
    what.params.v_scale = view_of(operands.v_scale, problem_.packed_k, 1);
    what.params.bad_keys = {operands.bad_keys, operands.v.size(2) / 32};
    what.q = head_map(operands.q, kernel_.q_slice, kernel_.rows, counter);
    what.k = head_map(operands.k, kernel_.k_slice, config.keys, counter);
    what.v = transposed_v_map(operands.v, kernel_.v_slice, config.dim_v, counter);
    launch(function_, kernel_.threads, kernel_.shared_bytes, multiprocessors_, what,
           stream_of(stream));
  }

 private:
  Problem problem_;
  const Kernel<Fp8Config>& kernel_;
  CUfunction function_;
  int multiprocessors_;
};

class Fp8Attention final : public AttentionKernel {
 public:
  Fp8Attention(const AttentionArgs& args, const Problem& problem)
      : launcher_(problem), preparer_(args, problem) {}

  std::size_t workspace_size() const override { return kCounterBytes + preparer_.workspace_size(); }

  void run(const AttentionArgs& args, Workspace workspace, Stream stream) const override {
    check_layout(args);
    std::byte* const prepared = workspace.data() + kCounterBytes;
    preparer_.run(args, prepared, reinterpret_cast<std::uint32_t*>(workspace.data()),
                  stream_of(stream));
    const cuda::PreparedOperands o = preparer_.operands(args, prepared);
    launcher_.run(args, {o.q, o.k, o.v, o.q_scale, args.descale.k, args.descale.v, o.bad_keys},
                  workspace.data(), stream);
  }

 private:
  Fp8Launcher launcher_;
  cuda::Preparer preparer_;
};

// The Problem of the quantised request.
Problem quantized(const Problem& problem, const Recipe& recipe) {
  Problem q = problem;
  q.dtype_q = q.dtype_k = recipe.qk == QkFormat::int8 ? Dtype::i8 : Dtype::e4m3;
  q.dtype_v = Dtype::e4m3;
  q.granularity_k = recipe.k_scale;
  q.block_k = recipe.k_scale == Granularity::block ? kBlock : 0;
  q.granularity_v = recipe.v_scale;
  q.block_v = recipe.v_scale == Granularity::block ? kBlock : 0;
  q.fast = recipe.fast;
  q.accumulation = recipe.accumulation;
  q.hadamard_v = recipe.hadamard == Hadamard::v_only || recipe.hadamard == Hadamard::qkv;
  q.v_mean = recipe.v_mean;
  q.p_e4m3 = true;
  return q;
}

class Fp8Sdpa final : public SdpaKernel {
 public:
  Fp8Sdpa(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem)
      : recipe_(options.recipe),
        launcher_(quantized(problem, options.recipe)),
        quantizer_(args, options, problem) {}

  std::size_t workspace_size() const override {
    return kCounterBytes + quantizer_.workspace_size();
  }
  const Recipe& recipe() const override { return recipe_; }

  QuantizedQkv quantize(const AttentionArgs& args, const SdpaOptions& options, Workspace workspace,
                        Stream stream) const override {
    check_layout(args);
    std::byte* const memory = workspace.data() + kCounterBytes;
    quantizer_.run(args, options, memory, reinterpret_cast<std::uint32_t*>(workspace.data()),
                   stream_of(stream));
    const cuda::QkvOperands o = quantizer_.operands(memory);
    AttentionArgs request = args;
    request.q = o.q;
    request.k = o.k;
    request.v = o.v;
    request.descale = {.q = o.q_scale, .k = o.k_scale, .v = o.v_scale};
    request.smoothing.row_bias = o.row_bias;
    request.smoothing.v_mean = o.v_mean;
    request.hadamard_v = recipe_.hadamard == Hadamard::v_only || recipe_.hadamard == Hadamard::qkv;
    request.fast = recipe_.fast;
    request.accumulation = recipe_.accumulation;
    return make_qkv(request);
  }

  void attend(const QuantizedQkv& qkv, Workspace workspace, Stream stream) const override {
    const AttentionArgs& args = qkv.args();
    launcher_.run(args,
                  {args.q, args.k, args.v, args.descale.q, args.descale.k, args.descale.v,
                   quantizer_.bad_keys(workspace.data() + kCounterBytes)},
                  workspace.data(), stream);
  }

 private:
  Recipe recipe_;
  Fp8Launcher launcher_;
  cuda::QkvQuantizer quantizer_;
};

// E4m3Scores compares scores before they are scaled.
void refuse_negative_scale(const Problem& p, bool int8, Reasons& reasons) {
  if (!int8 && p.scale < 0) {
    reasons.push_back(fmt::format(
        "multiplies e4m3 q and k by a scale that is not negative, got {}: negate q", p.scale));
  }
}

bool has_block_scales(const Problem& p) {
  return p.granularity_k == Granularity::block || p.granularity_v == Granularity::block;
}

}  // namespace

const Kernel<Fp8Config>* find_fp8_kernel(const Problem& p) {
  const Kernel<Fp8Config>* best = nullptr;
  const bool safe = p.accumulation == Accumulation::safe;
  // Small tiles have less code, which is felt in short kernels that come one after the other: the
  // multiprocessors' caches do not hold the code of several.
  const bool brief = p.len_k <= 2048;
  const auto better = [&](const Fp8Config& a, const Fp8Config& b) {
    const int size_a = a.dim_qk + a.dim_v, size_b = b.dim_qk + b.dim_v;
    if (size_a != size_b) return size_a < size_b;
    if (a.two_level != b.two_level) return a.two_level == safe;
    if (a.fast != b.fast) return a.fast == p.fast;
    return brief ? a.keys < b.keys : a.keys > b.keys;
  };
  for (const Kernel<Fp8Config>& kernel : fp8_kernels()) {
    const Fp8Config& c = kernel.config;
    const bool fits = c.int8 == (p.dtype_q == Dtype::i8) && (c.two_level || !safe) &&
                      (p.fast || !c.fast) && p.dim_qk <= c.dim_qk && p.dim_v <= c.dim_v &&
                      (c.keys <= kBlock || !has_block_scales(p));
    if (fits && (best == nullptr || better(c, best->config))) best = &kernel;
  }
  return best;
}

Reasons refuse_fp8(const Problem& p) {
  Reasons reasons;
  const auto check_scale = [&](const char* name, Granularity granularity, std::int64_t block) {
    if (granularity == Granularity::token) {
      reasons.push_back(
          fmt::format("{} per token comes with the serving kernels: use one scale "
                      "per block of 128 tokens or per head",
                      name));
    } else if (granularity == Granularity::block && block % kBlock != 0) {
      reasons.push_back(fmt::format("{} per block needs blocks of a multiple of {} tokens, got {}",
                                    name, kBlock, block));
    }
  };
  check_scale("descale.k", p.granularity_k, p.block_k);
  check_scale("descale.v", p.granularity_v, p.block_v);
  if (p.k_mean && (p.lse || p.sinks || p.softcap > 0)) {
    reasons.emplace_back(
        "smoothing.k_mean with LSE, sinks or a softcap needs scale · q·k_mean: "
        "give it as smoothing.row_bias");
  }
  if (find_fp8_kernel(p) == nullptr) {
    reasons.push_back(fmt::format("has no 8-bit kernel for head sizes {}/{}: up to 256 for both",
                                  p.dim_qk, p.dim_v));
  }
  refuse_negative_scale(p, p.dtype_q == Dtype::i8, reasons);
  for (std::string& reason : cuda::refuse_prepare({}, p)) reasons.push_back(std::move(reason));
  return reasons;
}

Reasons refuse_fp8_sdpa(const AttentionArgs& args, const SdpaOptions& options,
                        const Problem& problem) {
  Reasons reasons = cuda::refuse_qkv(args, options, problem);
  refuse_negative_scale(problem, options.recipe.qk == QkFormat::int8, reasons);
  if (find_fp8_kernel(quantized(problem, options.recipe)) == nullptr) {
    reasons.push_back(fmt::format("has no 8-bit kernel for head sizes {}/{}: up to 256 for both",
                                  problem.dim_qk, problem.dim_v));
  }
  return reasons;
}

std::unique_ptr<const AttentionKernel> plan_fp8(const AttentionArgs& args, const Problem& problem) {
  return std::make_unique<Fp8Attention>(args, problem);
}

std::unique_ptr<const SdpaKernel> plan_fp8_sdpa(const AttentionArgs& args,
                                                const SdpaOptions& options,
                                                const Problem& problem) {
  return std::make_unique<Fp8Sdpa>(args, options, problem);
}

}  // namespace sotto::sm90

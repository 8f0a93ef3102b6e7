#include "core/sdpa_composed.h"

#include <algorithm>
#include <optional>

#include "core/aligned_buffer.h"
#include "core/geometry.h"
#include "core/select.h"
#include "core/validate.h"

namespace sotto::core {
namespace {

constexpr std::int64_t kScaleBlock = 128;   // tokens per scale, Granularity::block
constexpr std::int64_t kMeanTokens = 1024;  // K's mean: a prefix that a cache knows early

// Lays tensors out in a workspace that may not be there yet (base 0: only sizes count).
class Arena {
 public:
  explicit Arena(const std::byte* base) : base_(reinterpret_cast<std::uintptr_t>(base)) {
    // A plan's tensors need an address that is not null; it is never followed.
    if (base_ == 0) base_ = kWorkspaceAlignment;
  }
  Tensor tensor(Dtype dtype, std::initializer_list<std::int64_t> shape) {
    Tensor t(reinterpret_cast<void*>(base_ + used()), dtype, shape);
    std::int64_t bytes;
    if (__builtin_mul_overflow(t.numel(), dtype_size(dtype), &bytes) || bytes > kMost - used_) {
      fail("workspace", "a copy of {} beside others overflows 64 bits", to_string(t));
    }
    used_ += static_cast<std::int64_t>(aligned_size(static_cast<std::size_t>(bytes)));
    return t;
  }
  Tensor like(const Tensor& x, Dtype dtype) {
    return x.rank == 3 ? tensor(dtype, {x.size(0), x.size(1), x.size(2)})
                       : tensor(dtype, {x.size(0), x.size(1), x.size(2), x.size(3)});
  }
  std::size_t used() const { return static_cast<std::size_t>(used_); }

 private:
  static constexpr std::int64_t kMost = std::int64_t{1} << 62;

  std::uintptr_t base_;
  std::int64_t used_ = 0;
};

// Everything that happens before attention, and the attention that follows. Tensors point into the
// workspace; made anew for every run, for that is cheaper than to patch.
struct Steps {
  std::optional<ChannelMeanArgs> q_mean, k_mean, v_mean, v_error_mean;
  std::optional<QuantizeArgs> q, k, v;
  Tensor positions_q;  // filled in on the host where queries do not start at position 0
  AttentionArgs attention;
  std::size_t bytes = 0;
};

bool rotates_qk(const SdpaOptions& options) { return static_cast<bool>(options.rope); }
bool hadamard_qk(const Recipe& recipe) {
  return recipe.hadamard == Hadamard::qk || recipe.hadamard == Hadamard::qkv;
}
bool hadamard_v(const Recipe& recipe) {
  return recipe.hadamard == Hadamard::v_only || recipe.hadamard == Hadamard::qkv;
}
bool changes_qk(const SdpaOptions& options) {
  const Recipe& r = options.recipe;
  return r.qk != QkFormat::exact || rotates_qk(options) || hadamard_qk(r) || r.smooth_k ||
         r.smooth_q;
}
bool changes_v(const Recipe& r) { return r.v != VFormat::exact || hadamard_v(r) || r.v_mean; }

Dtype qk_dtype(const Recipe& recipe, Dtype exact) {
  return recipe.qk == QkFormat::e4m3   ? Dtype::e4m3
         : recipe.qk == QkFormat::int8 ? Dtype::i8
                                       : exact;
}

class StepBuilder {
 public:
  StepBuilder(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem,
              const std::byte* base)
      : args_(args), options_(options), problem_(problem), arena_(base) {}

  Steps build() {
    steps_.attention = args_;
    steps_.attention.fast = options_.recipe.fast;
    steps_.attention.accumulation = options_.recipe.accumulation;
    if (changes_qk(options_)) add_qk();
    if (changes_v(options_.recipe)) add_v();
    steps_.bytes = arena_.used();
    return steps_;
  }

 private:
  void add_qk() {
    const Recipe& recipe = options_.recipe;
    AttentionArgs& attention = steps_.attention;
    Rope rope_q = options_.rope;
    if (rope_q && !rope_q.positions && problem_.mask_align == Mask::Align::bottom_right) {
      steps_.positions_q = problem_.packed_q
                               ? arena_.tensor(Dtype::i32, {problem_.rows_q})
                               : arena_.tensor(Dtype::i32, {problem_.batch, problem_.len_q});
      rope_q.positions = steps_.positions_q;
    }
    QuantizeArgs q = make(args_.q, qk_dtype(recipe, args_.q.dtype), recipe.q_scale, true);
    QuantizeArgs k = make(args_.k, qk_dtype(recipe, args_.k.dtype), recipe.k_scale, false);
    q.rope = rope_q;
    k.rope = rope_of_keys(options_);
    q.hadamard = k.hadamard = hadamard_qk(recipe);
    if (recipe.smooth_k) {
      steps_.k_mean = mean_of(k, kMeanTokens);
      k.mean = steps_.k_mean->mean;
    }
    if (recipe.smooth_q) {
      steps_.q_mean = mean_of(q, 0);
      q.mean = steps_.q_mean->mean;
      k.dot_with = q.mean;
      k.dot = attention.smoothing.key_bias = head_major(problem_.packed_k, args_.k);
      k.dot_scale = problem_.scale;
    }
    if (recipe.smooth_k && (problem_.lse || problem_.sinks || problem_.softcap > 0)) {
      q.dot_with = k.mean;
      q.dot = attention.smoothing.row_bias = head_major(problem_.packed_q, args_.q);
      q.dot_scale = problem_.scale;
      q.dot_before_mean = true;
    }
    attention.q = q.out;
    attention.k = k.out;
    attention.descale.q = q.descale;
    attention.descale.k = k.descale;
    steps_.q = q;
    steps_.k = k;
  }

  void add_v() {
    const Recipe& recipe = options_.recipe;
    AttentionArgs& attention = steps_.attention;
    const bool quantized = recipe.v != VFormat::exact;
    QuantizeArgs v = make(args_.v, quantized ? Dtype::e4m3 : args_.v.dtype, recipe.v_scale, false);
    v.power_of_two = recipe.v_scale_power_of_two;
    v.hadamard = hadamard_v(recipe);
    if (recipe.v == VFormat::e4m3_hi_lo) {
      v.out_lo = attention.v_lo = arena_.like(args_.v, Dtype::e4m3);
    }
    if (recipe.v_mean) {
      steps_.v_mean = mean_of(v, 0);
      v.mean = attention.smoothing.v_mean = steps_.v_mean->mean;
      // Rounding V − mean leaves a small mean of its own, which long contexts would show; what is
      // added back is mean(V − V̂'), V̂' being the rounded V − mean.
      if (quantized) {
        ChannelMeanArgs rest = mean_of(v, 0);
        rest.x = v.out;
        rest.descale = v.descale;
        rest.hadamard = false;
        steps_.v_error_mean = rest;
      }
    }
    attention.v = v.out;
    attention.descale.v = v.descale;
    attention.hadamard_v = v.hadamard;
    steps_.v = v;
  }

  QuantizeArgs make(const Tensor& x, Dtype dtype, Granularity granularity, bool queries) {
    const Sequences& seq = args_.seq;
    QuantizeArgs args{.x = x, .out = arena_.like(x, dtype)};
    args.cu_seqlens = queries ? seq.cu_seqlens_q : seq.cu_seqlens_k;
    args.seqused = queries ? seq.seqused_q : seq.seqused_k;
    if (dtype == Dtype::e4m3 || dtype == Dtype::i8) args.descale = scale_for(x, granularity);
    return args;
  }

  Scale scale_for(const Tensor& x, Granularity granularity) {
    const bool packed = x.rank == 3;
    const std::int64_t batch = problem_.batch;
    const std::int64_t heads = x.size(x.rank - 2);
    const std::int64_t len = packed ? x.size(0) : x.size(1);
    switch (granularity) {
      case Granularity::tensor:
        return Scale::per_tensor(arena_.tensor(Dtype::f32, {1}));
      case Granularity::head:
        return Scale::per_head(arena_.tensor(Dtype::f32, {batch, heads}));
      case Granularity::kv_head:
        return Scale::per_kv_head(arena_.tensor(Dtype::f32, {batch, problem_.heads_kv}));
      case Granularity::token:
        return Scale::per_token(packed ? arena_.tensor(Dtype::f32, {len, heads})
                                       : arena_.tensor(Dtype::f32, {batch, len, heads}));
      case Granularity::block:
        break;
    }
    if (!packed) {
      const std::int64_t blocks = ceil_div(len, kScaleBlock);
      return Scale::per_block(arena_.tensor(Dtype::f32, {batch, heads, blocks}), kScaleBlock);
    }
    // Each sequence begins a block of its own: at most one incomplete block each.
    const Tensor values = arena_.tensor(Dtype::f32, {heads, len / kScaleBlock + batch});
    return Scale::per_block(values, kScaleBlock, arena_.tensor(Dtype::i32, {batch + 1}));
  }

  // The mean of what `step` will round.
  ChannelMeanArgs mean_of(const QuantizeArgs& step, std::int64_t max_tokens) {
    const Tensor& x = step.x;
    ChannelMeanArgs args{.x = x};
    args.mean = arena_.tensor(Dtype::f32, {problem_.batch, x.size(x.rank - 2), x.size(x.rank - 1)});
    args.max_tokens = max_tokens;
    args.rope = step.rope;
    args.hadamard = step.hadamard;
    args.cu_seqlens = step.cu_seqlens;
    args.seqused = step.seqused;
    return args;
  }

  Tensor head_major(bool packed, const Tensor& x) {
    return packed ? arena_.tensor(Dtype::f32, {problem_.heads_q, x.size(0)})
                  : arena_.tensor(Dtype::f32, {problem_.batch, problem_.heads_q, x.size(1)});
  }

  const AttentionArgs& args_;
  const SdpaOptions& options_;
  const Problem& problem_;
  Arena arena_;
  Steps steps_;
};

Steps build_steps(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem,
                  const std::byte* base) {
  return StepBuilder(args, options, problem, base).build();
}

// Position of query i: that of the key that the mask's diagonal puts beside it.
void fill_positions(const Tensor& positions, const AttentionArgs& args, const Problem& problem) {
  auto* data = static_cast<std::int32_t*>(positions.data);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const Sequence sequence = sequence_at(args, problem, b);
    for (std::int64_t i = 0; i < sequence.rows_q; ++i) {
      const std::int64_t position = std::max<std::int64_t>(0, i + sequence.offset);
      // Rows beyond seqused_q are computed by nobody; they only need a legal position.
      data[sequence.first_row + i] = static_cast<std::int32_t>(i < sequence.len_q ? position : 0);
    }
  }
}

void fill_cu_blocks(const QuantizeArgs& step) {
  const Tensor& cu_blocks = step.descale.cu_blocks;
  if (!cu_blocks) return;
  auto* data = static_cast<std::int32_t*>(cu_blocks.data);
  data[0] = 0;
  for (std::int64_t b = 0; b + 1 < cu_blocks.size(0); ++b) {
    const std::int64_t len = int_at(step.cu_seqlens, b + 1) - int_at(step.cu_seqlens, b);
    data[b + 1] = data[b] + static_cast<std::int32_t>(ceil_div(len, kScaleBlock));
  }
}

void subtract(const Tensor& from, const Tensor& what) {
  auto* a = static_cast<float*>(from.data);
  const auto* b = static_cast<const float*>(what.data);
  for (std::int64_t i = 0; i < from.numel(); ++i) a[i] -= b[i];
}

class ComposedSdpa final : public SdpaKernel {
 public:
  ComposedSdpa(const Backend& backend, const AttentionArgs& args, const SdpaOptions& options)
      : backend_(backend), recipe_(options.recipe) {
    const Steps steps = build_steps(args, options, describe(args), nullptr);
    quantized_bytes_ = steps.bytes;
    quantized_ = describe(steps.attention);
    kernel_ = backend.plan(steps.attention, quantized_);
    check_planned(backend, kernel_.get());
  }

  std::size_t workspace_size() const override {
    return quantized_bytes_ + kernel_->workspace_size();
  }
  const Recipe& recipe() const override { return recipe_; }

  QuantizedQkv quantize(const AttentionArgs& args, const SdpaOptions& options, Workspace workspace,
                        Stream stream) const override {
    const Problem problem = describe(args);
    const Steps steps = build_steps(args, options, problem, workspace.data());
    if (steps.positions_q) fill_positions(steps.positions_q, args, problem);
    for (const auto& mean : {steps.q_mean, steps.k_mean, steps.v_mean}) {
      if (mean) backend_.run(*mean, stream);
    }
    for (const auto& step : {steps.q, steps.k, steps.v}) {
      if (!step) continue;
      fill_cu_blocks(*step);
      backend_.run(*step, stream);
    }
    if (steps.v_error_mean) {
      backend_.run(*steps.v_error_mean, stream);
      subtract(steps.attention.smoothing.v_mean, steps.v_error_mean->mean);
    }
    return make_qkv(steps.attention);
  }

  void attend(const QuantizedQkv& qkv, Workspace workspace, Stream stream) const override {
    if (const std::string difference = first_difference(quantized_, describe(qkv.args()));
        !difference.empty()) {
      fail("qkv", "was quantised for another plan: {}", difference);
    }
    check_contents(qkv.args(), quantized_);  // lengths may have changed since
    kernel_->run(qkv.args(), workspace.subspan(quantized_bytes_), stream);
  }

 private:
  const Backend& backend_;
  Recipe recipe_;
  std::size_t quantized_bytes_ = 0;
  Problem quantized_;  // what attention sees
  std::unique_ptr<const AttentionKernel> kernel_;
};

}  // namespace

bool changes_inputs(const SdpaOptions& options) {
  return changes_qk(options) || changes_v(options.recipe);
}

Rope rope_of_keys(const SdpaOptions& options) {
  Rope rope = options.rope;
  if (options.positions_k) rope.positions = options.positions_k;
  return rope;
}

Reasons refuse_composed_sdpa(const Backend& backend, const AttentionArgs& args,
                             const SdpaOptions& options) {
  const Problem problem = describe(args);
  if (problem.device.type != DeviceType::cpu && changes_inputs(options)) {
    return {"sdpa of host operations needs tensors on the CPU, got " + to_string(problem.device)};
  }
  const Steps steps = build_steps(args, options, problem, nullptr);
  Reasons reasons = backend.refuse(describe(steps.attention));
  const auto add = [&](const auto& step) {
    if (!step) return;
    for (std::string& reason : backend.refuse(*step)) {
      const bool said = std::find(reasons.begin(), reasons.end(), reason) != reasons.end();
      if (!said) reasons.push_back(std::move(reason));
    }
  };
  for (const auto& mean : {steps.q_mean, steps.k_mean, steps.v_mean}) add(mean);
  for (const auto& step : {steps.q, steps.k, steps.v}) add(step);
  return reasons;
}

std::unique_ptr<const SdpaKernel> compose_sdpa(const Backend& backend, const AttentionArgs& args,
                                               const SdpaOptions& options) {
  return std::make_unique<ComposedSdpa>(backend, args, options);
}

}  // namespace sotto::core

#include "cuda/quantize/qkv.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "core/geometry.h"
#include "core/hadamard.h"
#include "core/sdpa_composed.h"
#include "cuda/error.h"
#include "cuda/launch.h"
#include "cuda/quantize/arena.h"
#include "cuda/quantize/token_sides.h"

namespace sotto::cuda {
namespace {

constexpr std::int64_t kMeanTokens = 1024;     // K's mean is that of a prefix
constexpr std::int64_t kMostTokens = 1 << 30;  // positions and rows are 32-bit numbers
constexpr std::int64_t kMostTiles = 1 << 30;   // and so are tiles in all heads

bool hadamard_qk(const Recipe& recipe) {
  return recipe.hadamard == Hadamard::qk || recipe.hadamard == Hadamard::qkv;
}
bool hadamard_v(const Recipe& recipe) {
  return recipe.hadamard == Hadamard::v_only || recipe.hadamard == Hadamard::qkv;
}
bool needs_row_bias(const Recipe& recipe, const Problem& problem) {
  return recipe.smooth_k && (problem.lse || problem.sinks || problem.softcap > 0.0f);
}

bool same_tokens(const TokenSide& a, const TokenSide& b) {
  return a.cu_seqlens == b.cu_seqlens && a.cu_stride == b.cu_stride && a.len == b.len &&
         a.positions == b.positions && a.position_strides[0] == b.position_strides[0] &&
         a.position_strides[1] == b.position_strides[1];
}

void set_source(OperandParams& operand, const Tensor& x) {
  operand.data = x.data;
  const bool packed = x.rank == 3;
  operand.batch_stride = packed ? 0 : x.stride(0);
  operand.token_stride = x.stride(packed ? 0 : 1);
  operand.head_stride = x.stride(packed ? 1 : 2);
  const auto in_16_bytes = [](std::int64_t stride) { return stride % 8 == 0; };
  operand.aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 &&
                    in_16_bytes(operand.batch_stride) && in_16_bytes(operand.token_stride) &&
                    in_16_bytes(operand.head_stride);
}

// Clusters of the statistics: of amax, where heads have a scale in common.
int statistics_jobs(const QkvParams& params) {
  int jobs = 0;
  for (const OperandParams& operand : params.operands) {
    if (operand.amax == nullptr) continue;
    const int parts = (operand.heads + params.heads_per_job - 1) / params.heads_per_job;
    jobs += parts * params.keys.batch;
  }
  return jobs;
}

// Clusters of the means.
int means_jobs(const QkvParams& params) {
  int jobs = 0;
  for (const OperandParams& operand : params.operands) {
    if (operand.mean == nullptr) continue;
    jobs += operand.heads * params.keys.batch;
  }
  return jobs;
}

template <class Element>
QkvKernels kernels_for(int width) {
  switch (width) {
    case 64:
      return qkv_kernels<64, Element>();
    case 128:
      return qkv_kernels<128, Element>();
    default:
      return qkv_kernels<256, Element>();
  }
}

template <class Element>
FixedWriters writers_for(RopeKind rope) {
  switch (rope) {
    case RopeKind::none:
      return fixed_writers<Element, RopeKind::none>();
    case RopeKind::halves:
      return fixed_writers<Element, RopeKind::halves>();
    default:
      return fixed_writers<Element, RopeKind::interleaved>();
  }
}

// On the current device; all with the same division of the memory on chip: between others it would
// have to change.
CUfunction load(const void* kernel, std::size_t shared_bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "asking for shared memory for the quantiser");
  return function_of(kernel, static_cast<int>(shared_bytes));
}

}  // namespace

Reasons refuse_qkv(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem) {
  Reasons reasons;
  const auto refuse = [&](std::string reason) { reasons.push_back(std::move(reason)); };
  const Recipe& recipe = options.recipe;
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor&>("q", args.q), {"k", args.k}, {"v", args.v}}) {
    if (tensor.dtype == Dtype::f32) {
      refuse(fmt::format("{} must be f16 or bf16 to be quantised on the GPU, got f32", name));
    }
  }
  for (const auto& [name, dim] :
       {std::pair<const char*, std::int64_t>("dim_qk", problem.dim_qk), {"dim_v", problem.dim_v}}) {
    if (dim % 16 != 0 || dim > 256) {
      refuse(fmt::format("{} must be a multiple of 16 up to 256, got {}", name, dim));
    }
  }
  if (problem.page_size > 0 || problem.batch_idx) {
    refuse("k and v of a cache (page_table, batch_idx) are not quantised by sdpa");
  }
  if (recipe.smooth_q) refuse("recipe.smooth_q is not implemented on the GPU; leave it off");
  if (recipe.qk == QkFormat::exact) refuse("recipe.qk must be e4m3 or int8, got exact");
  if (recipe.v != VFormat::e4m3) {
    refuse(recipe.v == VFormat::exact ? "recipe.v must be e4m3, got exact"
                                      : "recipe.v e4m3_hi_lo is not implemented on the GPU; use "
                                        "e4m3 (the recipe int8qk)");
  }
  const bool int8 = recipe.qk == QkFormat::int8;
  if (recipe.q_scale != (int8 ? Granularity::token : Granularity::kv_head)) {
    refuse(int8 ? "recipe.q_scale of INT8 must be per token on the GPU"
                : "recipe.q_scale of e4m3 must be per kv_head on the GPU");
  }
  if (recipe.k_scale != (int8 ? Granularity::block : Granularity::kv_head)) {
    refuse(int8 ? "recipe.k_scale of INT8 must be per block on the GPU"
                : "recipe.k_scale of e4m3 must be per kv_head on the GPU");
  }
  const bool v_block = recipe.v_scale == Granularity::block && recipe.v_scale_power_of_two;
  if (!v_block && recipe.v_scale != Granularity::kv_head) {
    refuse("recipe.v_scale must be per kv_head, or per block and a power of two, on the GPU");
  }
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor&>("q", args.q), {"k", args.k}}) {
    const std::int64_t heads = tensor.size(tensor.rank - 2);
    const std::int64_t rows = tensor.numel() / std::max<std::int64_t>(1, heads * problem.dim_qk);
    if (rows > kMostTokens) {
      refuse(fmt::format("{} has more than 2^30 tokens: {}", name, to_string(tensor)));
    } else if (problem.batch > kMostTiles / heads ||
               (rows / kTileTokens + problem.batch) * heads > kMostTiles) {
      refuse(fmt::format("{} has more than 2^30 tiles of 128 tokens in all heads: {}", name,
                         to_string(tensor)));
    }
  }
  return reasons;
}

QkvQuantizer::QkvQuantizer(const AttentionArgs& args, const SdpaOptions& options,
                           const Problem& problem)
    : recipe_(options.recipe), problem_(problem) {
  slots_k_ = token_side(args.k, args.seq.cu_seqlens_k, {}, {}, problem.batch).slots;
  tokens_q_ = args.q.size(problem.packed_q ? 0 : 1);
  tokens_k_ = args.k.size(problem.packed_k ? 0 : 1);
  const std::int64_t dim = std::max(problem.dim_qk, problem.dim_v);
  width_ = dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
  const bool bf16 = args.q.dtype == Dtype::bf16;
  const QkvKernels kernels =
      bf16 ? kernels_for<__nv_bfloat16>(width_) : kernels_for<__half>(width_);
  statistics_bytes_ = static_cast<int>(kernels.statistics_bytes);
  write_bytes_ = static_cast<int>(kernels.write_bytes);
  means_ = load(kernels.means, 0);
  statistics_ = load(kernels.statistics, kernels.statistics_bytes);
  write_ = load(kernels.write, kernels.write_bytes);
  if (problem.dim_qk == kFixedWidth && problem.dim_v == kFixedWidth) {
    fixed_rope_ = !options.rope              ? RopeKind::none
                  : options.rope.interleaved ? RopeKind::interleaved
                                             : RopeKind::halves;
    const FixedWriters writers =
        bf16 ? writers_for<__nv_bfloat16>(fixed_rope_) : writers_for<__half>(fixed_rope_);
    const bool int8 = recipe_.qk == QkFormat::int8;
    write_fixed_ = load(writers.kernels[hadamard_qk(recipe_)][int8], kernels.write_bytes);
  }
  workspace_size_ = place(nullptr, nullptr, nullptr);
  check(cudaDeviceGetAttribute(&blocks_, cudaDevAttrMultiProcessorCount, problem.device.index),
        "asking for the number of multiprocessors");
}

CUfunction QkvQuantizer::writer(const QkvParams& params) const {
  const bool aligned = std::all_of(std::begin(params.operands), std::end(params.operands),
                                   [](const OperandParams& o) { return o.aligned; });
  const bool fixed = write_fixed_ != nullptr && aligned && params.rope.kind == fixed_rope_;
  return fixed ? write_fixed_ : write_;
}

// Everything that follows from shapes and the recipe, and the addresses in the workspace.
std::size_t QkvQuantizer::place(std::byte* workspace, QkvParams* params,
                                QkvOperands* operands) const {
  Arena arena(workspace);
  QkvParams p;
  QkvOperands o;
  const Device device = problem_.device;
  const std::int64_t batch = problem_.batch;
  const bool int8 = recipe_.qk == QkFormat::int8;
  const bool v_block = recipe_.v_scale == Granularity::block;
  const auto f32 = [&](std::initializer_list<std::int64_t> shape) {
    std::int64_t count = 1;
    for (std::int64_t size : shape) count *= size;
    return Tensor(arena.take<float>(count), Dtype::f32, shape, device);
  };
  const auto data = [](const Tensor& tensor) { return static_cast<float*>(tensor.data); };

  const std::int64_t heads_kv = problem_.heads_kv;
  const std::int64_t v_sequences = problem_.packed_k ? 1 : batch;
  const std::int64_t blocks = problem_.packed_k ? slots_k_ : core::ceil_div(tokens_k_, kTileTokens);
  const std::int64_t v_tokens = blocks * kTileTokens;
  p.bad_keys = arena.take<std::uint32_t>(v_sequences * heads_kv * v_tokens / 32);
  o.bad_keys = p.bad_keys;

  p.int8 = int8;
  p.v_block_scale = v_block;
  p.v_power_of_two = recipe_.v_scale_power_of_two;
  p.bottom_right = problem_.mask_align == Mask::Align::bottom_right;
  p.scale = problem_.scale;
  if (problem_.dim_qk > 128) {
    p.k_target = 14.0f;
    p.k_limit = e4m3(14.0f).bits;
  }

  struct Kind {
    std::int64_t heads, dim, tokens;
    bool packed, transform;
  };
  const Kind kinds[3] = {
      {problem_.heads_q, problem_.dim_qk, tokens_q_, problem_.packed_q, hadamard_qk(recipe_)},
      {problem_.heads_kv, problem_.dim_qk, tokens_k_, problem_.packed_k, hadamard_qk(recipe_)},
      {problem_.heads_kv, problem_.dim_v, tokens_k_, problem_.packed_k, hadamard_v(recipe_)}};
  for (int i = 0; i < 3; ++i) {
    OperandParams& operand = p.operands[i];
    const Kind& kind = kinds[i];
    operand.heads = static_cast<int>(kind.heads);
    operand.dim = static_cast<int>(kind.dim);
    if (kind.transform) {
      operand.hadamard = static_cast<int>(core::hadamard_block(kind.dim));
      operand.normalize = 1.0f / std::sqrt(static_cast<float>(operand.hadamard));
    }
    const bool head_scale = i == 2 ? !v_block : !int8;
    if (head_scale) operand.amax = arena.take<float>(batch * kind.heads);
  }
  const auto rows = [&](const Kind& kind, OperandParams& operand) {
    const std::int64_t sequences = kind.packed ? 1 : batch;
    operand.codes = arena.take<std::uint8_t>(sequences * kind.heads * kind.tokens * kind.dim);
    const Dtype dtype = int8 ? Dtype::i8 : Dtype::e4m3;
    const std::int64_t head_stride = kind.tokens * kind.dim;
    if (kind.packed) {
      return Tensor(operand.codes, dtype, {kind.tokens, kind.heads, kind.dim},
                    {kind.dim, head_stride, 1}, device);
    }
    return Tensor(operand.codes, dtype, {batch, kind.tokens, kind.heads, kind.dim},
                  {kind.heads * head_stride, kind.dim, head_stride, 1}, device);
  };
  o.q = rows(kinds[0], p.operands[0]);
  o.k = rows(kinds[1], p.operands[1]);

  p.operands[2].codes =
      arena.take<std::uint8_t>(v_sequences * heads_kv * problem_.dim_v * v_tokens);
  o.v = Tensor(p.operands[2].codes, Dtype::e4m3, {v_sequences * heads_kv, problem_.dim_v, v_tokens},
               device);

  Tensor cu_blocks;
  if (problem_.packed_k && (int8 || v_block)) {
    p.cu_blocks = arena.take<std::int32_t>(batch + 1);
    cu_blocks = Tensor(p.cu_blocks, {batch + 1}, device);
  }
  const auto head_major = [&] {
    return problem_.packed_q ? f32({problem_.heads_q, tokens_q_})
                             : f32({batch, problem_.heads_q, tokens_q_});
  };
  const auto block_scale = [&] {
    const Tensor values =
        problem_.packed_k ? f32({heads_kv, blocks}) : f32({batch, heads_kv, blocks});
    return Scale::per_block(values, kTileTokens, cu_blocks);
  };
  if (int8) {
    const Tensor values = head_major();
    o.q_scale =
        Scale::per_token(problem_.packed_q ? values.transposed(0, 1) : values.transposed(1, 2));
    o.k_scale = block_scale();
  } else {
    o.q_scale = Scale::per_kv_head(f32({batch, heads_kv}));
    o.k_scale = Scale::per_kv_head(f32({batch, heads_kv}));
  }
  o.v_scale = v_block ? block_scale() : Scale::per_kv_head(f32({batch, heads_kv}));
  p.operands[0].scales = data(o.q_scale.values);
  p.operands[1].scales = data(o.k_scale.values);
  p.operands[2].scales = data(o.v_scale.values);

  if (recipe_.smooth_k) {
    p.operands[1].mean = arena.take<float>(batch * heads_kv * problem_.dim_qk);
    p.operands[1].mean_tokens = kMeanTokens;
  }
  if (needs_row_bias(recipe_, problem_)) {
    o.row_bias = head_major();
    p.row_bias = data(o.row_bias);
  }
  if (recipe_.v_mean) {
    p.operands[2].mean = arena.take<float>(batch * heads_kv * problem_.dim_v);
    p.v_code_sums = arena.take<float>(slots_k_ * heads_kv * problem_.dim_v);
    o.v_mean = f32({batch, heads_kv, problem_.dim_v});
    p.v_mean = data(o.v_mean);
  }
  if (params != nullptr) *params = p;
  if (operands != nullptr) *operands = o;
  return arena.used();
}

QkvOperands QkvQuantizer::operands(std::byte* workspace) const {
  QkvOperands operands;
  place(workspace, nullptr, &operands);
  return operands;
}

void QkvQuantizer::run(const AttentionArgs& args, const SdpaOptions& options, std::byte* workspace,
                       std::uint32_t* tile_counter, cudaStream_t stream) const {
  QkvParams params;
  place(workspace, &params, nullptr);
  params.tile_counter = tile_counter;
  set_source(params.operands[0], args.q);
  set_source(params.operands[1], args.k);
  set_source(params.operands[2], args.v);
  params.rope = rope_tables(options.rope, problem_.dim_qk, width_);
  params.operands[0].rope = params.operands[1].rope = static_cast<bool>(options.rope);
  params.queries = token_side(args.q, args.seq.cu_seqlens_q, args.seq.seqused_q,
                              options.rope.positions, problem_.batch);
  params.keys = token_side(args.k, args.seq.cu_seqlens_k, args.seq.seqused_k,
                           core::rope_of_keys(options).positions, problem_.batch);
  params.shared_positions = same_tokens(params.queries, params.keys) &&
                            (params.queries.positions != nullptr || !params.bottom_right);

  const auto launch_next = [&](CUfunction kernel, int blocks, int threads, int shared_bytes) {
    void* arguments[] = {&params};
    launch(kernel, {blocks, threads, shared_bytes, /*dependent=*/true}, arguments, stream);
    params.is_first = false;
  };
  if (const int jobs = means_jobs(params); jobs > 0) {
    launch_next(means_, jobs * kStatisticsCluster, kQkvMeansThreads, 0);
  }
  // As many heads at a time as leave every cluster something to do.
  const int clusters = blocks_ / kStatisticsCluster;
  int jobs = statistics_jobs(params);
  while (jobs > clusters && params.heads_per_job < kMostHeadsPerJob) {
    ++params.heads_per_job;
    jobs = statistics_jobs(params);
  }
  if (jobs > 0) {
    launch_next(statistics_, jobs * kStatisticsCluster, kQkvThreads, statistics_bytes_);
  }
  launch_next(writer(params), blocks_, kQkvThreads, write_bytes_);
  if (recipe_.v_mean) finish_v_mean(params, stream);
}

}  // namespace sotto::cuda

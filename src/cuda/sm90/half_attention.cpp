#include "cuda/sm90/half_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"
#include "core/geometry.h"
#include "cuda/error.h"
#include "cuda/launch.h"
#include "cuda/quantize/arena.h"
#include "cuda/sm90/copy_rows.h"
#include "cuda/sm90/launch.h"
#include "cuda/sm90/make_params.h"
#include "cuda/sm90/tensor_map.h"

namespace sotto::sm90 {
namespace {

bool fits(const HalfConfig& c, const Problem& p) {
  return c.bf16 == (p.dtype_q == Dtype::bf16) && p.dim_qk <= c.dim_qk && p.dim_v <= c.dim_v;
}

// How long a kernel takes over the rows of a request, but for a factor: it goes in rounds of one
// block on each multiprocessor. Three warpgroups share what is read of K and V, which is worth 8 %.
double cost(const Kernel<HalfConfig>& kernel, const Problem& p, int multiprocessors) {
  const std::int64_t sequences = p.packed_q ? 1 : p.batch;
  const std::int64_t tiles =
      core::ceil_div(p.rows_q / std::max<std::int64_t>(sequences, 1), kernel.rows) * sequences *
      p.heads_q;
  const double rounds = static_cast<double>(core::ceil_div(tiles, multiprocessors));
  return rounds * kernel.rows * (kernel.config.warpgroups == 3 ? 1.0 : 1.08);
}

const Kernel<HalfConfig>& choose(const Problem& p, int multiprocessors) {
  const Kernel<HalfConfig>* best = nullptr;
  for (const Kernel<HalfConfig>& kernel : half_kernels()) {
    if (!fits(kernel.config, p)) continue;
    const auto rank = [&](const Kernel<HalfConfig>& k) {
      return std::pair(k.config.dim_qk + k.config.dim_v, cost(k, p, multiprocessors));
    };
    if (best == nullptr || rank(kernel) < rank(*best)) best = &kernel;
  }
  return *best;
}

// Of [batch, len, heads, dim] or packed [total, heads, dim].
HalfRows rows_of(const Tensor& t) {
  if (t.rank == 3) return {t.data, 0, t.stride(1), t.stride(0)};
  return {t.data, t.stride(0), t.stride(2), t.stride(1)};
}

class HalfAttention final : public AttentionKernel {
 public:
  HalfAttention(const AttentionArgs& args, const Problem& problem)
      : problem_(problem),
        multiprocessors_(multiprocessors(problem.device.index)),
        kernel_(choose(problem, multiprocessors_)),
        function_(cuda::function_of(kernel_.function, kernel_.shared_bytes)) {
    const std::array inputs{&args.q, &args.k, &args.v};
    for (std::size_t i = 0; i < copied_.size(); ++i) copied_[i] = !has_aligned_rows(*inputs[i]);
    cuda::Arena arena(nullptr);
    place(args, arena);
    workspace_size_ = arena.used();
  }

  std::size_t workspace_size() const override { return workspace_size_; }

  void run(const AttentionArgs& args, Workspace workspace, Stream stream) const override {
    const auto on = static_cast<cudaStream_t>(stream.handle);
    check_layout(args);
    check_rows("q", args.q, copied_[0]);
    check_rows("k", args.k, copied_[1]);
    check_rows("v", args.v, copied_[2]);
    cuda::Arena arena(workspace.data());
    const Places places = place(args, arena);
    const auto readable = [&](const Tensor& tensor, std::byte* copy) {
      return copy == nullptr ? tensor : copy_rows(tensor, copy, on);
    };
    const Tensor q = readable(args.q, places.q), k = readable(args.k, places.k),
                 v = readable(args.v, places.v);
    Launch what;
    what.params = make_params(args, problem_, kernel_.rows, 2 * (problem_.dim_qk + problem_.dim_v),
                              places.next_tile);
    if (what.params.tiles <= multiprocessors_) {  // a block for each
      what.params.next_tile = nullptr;
    } else {
      cuda::check(cudaMemsetAsync(places.next_tile, 0, sizeof(unsigned), on),
                  "resetting the tile counter");
    }
    what.params.q_rows = rows_of(q);
    what.params.k_rows = rows_of(k);
    what.params.v_rows = rows_of(v);
    what.params.dim_qk = static_cast<int>(problem_.dim_qk);
    what.q = head_map(q, kernel_.q_slice, kernel_.rows, places.next_tile);
    what.k = head_map(k, kernel_.k_slice, kernel_.config.keys, places.next_tile);
    what.v = head_map(v, kernel_.v_slice, kernel_.config.keys, places.next_tile);
    launch(function_, kernel_.threads, kernel_.shared_bytes, multiprocessors_, what, on);
  }

 private:
  struct Places {
    unsigned* next_tile;
    std::byte *q, *k, *v;  // null: read where it is
  };
  Places place(const AttentionArgs& args, cuda::Arena& arena) const {
    const auto room = [&](const Tensor& tensor, bool copied) {
      return copied ? arena.take<std::byte>(tensor.numel() * dtype_size(tensor.dtype)) : nullptr;
    };
    Places places{};
    places.next_tile = arena.take<unsigned>(1);
    places.q = room(args.q, copied_[0]);
    places.k = room(args.k, copied_[1]);
    places.v = room(args.v, copied_[2]);
    return places;
  }

  // Room for copies is made only where the plan's own tensors need them: they may be large.
  static void check_rows(const char* name, const Tensor& tensor, bool copied) {
    if (copied || has_aligned_rows(tensor)) return;
    core::fail(name,
               "must have its first element and its strides at multiples of 16 bytes, as in the "
               "plan, got {} at {}; make a plan for such tensors",
               to_string(tensor), tensor.data);
  }

  Problem problem_;
  int multiprocessors_;
  const Kernel<HalfConfig>& kernel_;
  CUfunction function_;
  std::array<bool, 3> copied_{};  // q, k, v
  std::size_t workspace_size_ = 0;
};

}  // namespace

Reasons refuse_half(const Problem& p) {
  Reasons reasons;
  if (p.dim_qk > 256 || p.dim_v > 256) {
    reasons.push_back(fmt::format("has no 16-bit kernel for head sizes {}/{}: up to 256 for both",
                                  p.dim_qk, p.dim_v));
  }
  if (p.k_mean && (p.lse || p.sinks || p.softcap > 0)) {
    reasons.emplace_back(
        "smoothing.k_mean with LSE, sinks or a softcap needs scale · q·k_mean: give it as "
        "smoothing.row_bias");
  }
  return reasons;
}

std::unique_ptr<const AttentionKernel> plan_half(const AttentionArgs& args,
                                                 const Problem& problem) {
  return std::make_unique<HalfAttention>(args, problem);
}

}  // namespace sotto::sm90

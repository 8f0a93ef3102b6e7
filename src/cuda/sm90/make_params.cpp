#include "cuda/sm90/make_params.h"

#include <algorithm>

#include "core/check.h"
#include "core/geometry.h"
#include "core/hadamard.h"
#include "cuda/sm90/tensor_map.h"

namespace sotto::sm90 {
namespace {

constexpr std::int64_t kL2Share = 24 << 20;  // bytes of K and V that stay in L2 between blocks

const int* ints(const Tensor& tensor) { return static_cast<const int*>(tensor.data); }
float* floats(const Tensor& tensor) { return static_cast<float*>(tensor.data); }

// [batch, heads, len] or packed [heads, total].
RowView head_major(const Tensor& t) {
  if (!t) return {};
  if (t.rank == 2) return {floats(t), 0, t.stride(0), t.stride(1)};
  return {floats(t), t.stride(0), t.stride(1), t.stride(2)};
}

OutDtype out_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return OutDtype::f32;
    case Dtype::f16:
      return OutDtype::f16;
    case Dtype::bf16:
      return OutDtype::bf16;
    default:
      return OutDtype::e4m3;
  }
}

// Window sizes beyond any sequence are as good as none.
int band(std::int64_t keys) {
  return keys < 0 || keys > (std::int64_t{1} << 30) ? -1 : static_cast<int>(keys);
}

void check_contiguous(const char* name, const Tensor& tensor) {
  if (!tensor || tensor.size(tensor.rank - 1) <= 1 || tensor.stride(tensor.rank - 1) == 1) return;
  core::fail(name, "must be contiguous along its last dimension for backend sm90, got stride {}",
             tensor.stride(tensor.rank - 1));
}

}  // namespace

Params make_params(const AttentionArgs& args, const Problem& problem, int rows,
                   std::int64_t bytes_of_key, unsigned* next_tile) {
  Params p;
  p.batch = static_cast<int>(problem.batch);
  p.heads_q = static_cast<int>(problem.heads_q);
  p.heads_kv = static_cast<int>(problem.heads_kv);
  p.len_q = static_cast<int>(args.q.size(problem.packed_q ? 0 : 1));
  p.len_k = static_cast<int>(args.k.size(problem.packed_k ? 0 : 1));
  p.cu_seqlens_q = ints(args.seq.cu_seqlens_q);
  p.cu_seqlens_k = ints(args.seq.cu_seqlens_k);
  p.seqused_q = ints(args.seq.seqused_q);
  p.seqused_k = ints(args.seq.seqused_k);
  p.left = band(problem.mask_left);
  p.right = band(problem.mask_right);
  p.bottom_right = problem.mask_align == Mask::Align::bottom_right;

  const std::int64_t heads = problem.packed_q ? problem.heads_q : problem.heads_q * problem.batch;
  p.row_tiles = static_cast<int>(problem.packed_q ? p.len_q / rows + problem.batch
                                                  : core::ceil_div(p.len_q, rows));
  p.tiles = static_cast<int>(p.row_tiles * heads);
  const std::int64_t group = problem.heads_q / problem.heads_kv;
  const std::int64_t head_bytes = std::max<std::int64_t>(1, p.len_k * bytes_of_key);
  p.heads_together = static_cast<int>(std::clamp(kL2Share / head_bytes * group, group, heads));
  p.next_tile = next_tile;

  p.scale_log2 = problem.scale * kLog2e;
  p.softcap_log2 = std::min(problem.softcap, 1e30f) * kLog2e;
  p.row_bias = head_major(args.smoothing.row_bias);
  p.sinks = floats(args.sinks);
  p.sink_stride = args.sinks ? args.sinks.stride(0) : 0;

  const Tensor& out = args.out;
  p.out = out.data;
  const bool packed = out.rank == 3;
  p.out_batch = packed ? 0 : out.stride(0);
  p.out_token = out.stride(packed ? 0 : 1);
  p.out_head = out.stride(packed ? 1 : 2);
  p.out_dtype = out_dtype(out.dtype);
  p.out_aligned = has_aligned_rows(out);
  p.out_scale = floats(args.output.scale);
  p.lse = head_major(args.lse);
  p.v_mean = head_major(args.smoothing.v_mean);
  p.dim_v = static_cast<int>(problem.dim_v);
  p.hadamard_block = problem.hadamard_v ? static_cast<int>(core::hadamard_block(problem.dim_v)) : 0;
  return p;
}

ScaleView view_of(const Scale& scale, bool packed, std::int64_t heads) {
  ScaleView view;
  if (!scale) return view;
  const Tensor& t = scale.values;
  view.data = floats(t);
  switch (scale.granularity) {
    case Granularity::tensor:
      break;
    case Granularity::kv_head:
      view.heads = static_cast<int>(heads);
      [[fallthrough]];
    case Granularity::head:
      view.batch = t.stride(0);
      view.head = t.stride(1);
      break;
    case Granularity::token:
      view.batch = packed ? 0 : t.stride(0);
      view.step = t.stride(packed ? 0 : 1);
      view.head = t.stride(packed ? 1 : 2);
      view.count = static_cast<int>(t.size(packed ? 0 : 1));
      view.first = packed ? FirstScale::token : FirstScale::none;
      break;
    case Granularity::block:
      view.batch = packed ? 0 : t.stride(0);
      view.head = t.stride(packed ? 0 : 1);
      view.step = t.stride(packed ? 1 : 2);
      view.tokens = static_cast<int>(std::min<std::int64_t>(scale.block, 1 << 30));
      view.count = static_cast<int>(t.size(packed ? 1 : 2));
      view.first = packed ? FirstScale::cu_blocks : FirstScale::none;
      view.cu_blocks = ints(scale.cu_blocks);
      break;
  }
  return view;
}

void check_layout(const AttentionArgs& args) {
  check_contiguous("seq.cu_seqlens_q", args.seq.cu_seqlens_q);
  check_contiguous("seq.cu_seqlens_k", args.seq.cu_seqlens_k);
  check_contiguous("seq.seqused_q", args.seq.seqused_q);
  check_contiguous("seq.seqused_k", args.seq.seqused_k);
  check_contiguous("descale.q.cu_blocks", args.descale.q.cu_blocks);
  check_contiguous("descale.k.cu_blocks", args.descale.k.cu_blocks);
  check_contiguous("descale.v.cu_blocks", args.descale.v.cu_blocks);
}

}  // namespace sotto::sm90

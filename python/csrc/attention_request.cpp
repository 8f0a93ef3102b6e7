#include "attention_request.h"

#include <array>

namespace sotto::bridge {
namespace {

bool is_quantized(Dtype dtype) { return dtype == Dtype::e4m3 || dtype == Dtype::i8; }

}  // namespace

void bind_outputs(Arguments& in, AttentionArgs& args, bool torchs_layout) {
  args.out = in.tensor("out");
  if (torchs_layout) args.out = heads_third(args.out);
  args.lse = in.optional_tensor("lse");
  args.output.group_scale = in.optional_tensor("group_scale");
}

std::vector<TorchTensor> allocate_outputs(Arguments& in, AttentionArgs& args, bool torchs_layout) {
  const std::optional<Dtype> out_dtype = in.optional_dtype("out_dtype");
  const bool return_lse = in.flag();
  const Tensor& q = args.q;
  const bool dense = q.rank == 4;
  // Of other ranks there is nothing to allocate: the library says what is wrong with them.
  if (q.rank < 3 || args.v.rank < 3) return {};

  const Dtype dtype = out_dtype.value_or(is_quantized(q.dtype) ? Dtype::bf16 : q.dtype);
  std::array<std::int64_t, 4> sizes = q.shape;
  const auto rank = static_cast<std::size_t>(q.rank);
  sizes[rank - 1] = args.v.size(args.v.rank - 1);
  if (dtype == Dtype::e2m1x2) sizes[rank - 1] /= 2;
  const std::span<const std::int64_t> out_sizes(sizes.data(), rank);
  std::vector<TorchTensor> outputs;
  outputs.push_back(dense && torchs_layout ? allocate_transposed(out_sizes, dtype, q.device, 1, 2)
                                           : allocate(out_sizes, dtype, q.device));
  args.out = view("out", outputs.back());
  if (torchs_layout) args.out = heads_third(args.out);

  if (!return_lse) {
    outputs.push_back(allocate(std::array{std::int64_t{0}}, Dtype::f32, q.device));
    return outputs;
  }
  outputs.push_back(
      dense ? allocate(std::array{q.size(0), q.size(2), q.size(1)}, Dtype::f32, q.device)
            : allocate(std::array{q.size(1), q.size(0)}, Dtype::f32, q.device));
  args.lse = view("lse", outputs.back());
  return outputs;
}

}  // namespace sotto::bridge

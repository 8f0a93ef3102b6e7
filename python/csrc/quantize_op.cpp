// sotto::quantize and sotto::channel_mean.
#include <array>
#include <string>

#include "op.h"

namespace sotto::bridge {
namespace {

std::int64_t batch_of(const Tensor& x, const Tensor& cu_seqlens) {
  if (!cu_seqlens) return x.size(0);
  if (cu_seqlens.size(0) < 1)
    throw InvalidArgument("cu_seqlens", "must have batch + 1 entries, got none");
  return cu_seqlens.size(0) - 1;
}

// The shape of a descale that quantize() is to write. Of packed blocks there are at most as many.
std::vector<std::int64_t> descale_sizes(const QuantizeArgs& args, std::int64_t heads_kv) {
  const Tensor& x = args.x;
  const bool packed = static_cast<bool>(args.cu_seqlens);
  const std::int64_t batch = batch_of(x, args.cu_seqlens);
  const std::int64_t heads = x.size(x.rank - 2);
  const std::int64_t block = args.descale.block;
  switch (args.descale.granularity) {
    case Granularity::tensor:
      return {1};
    case Granularity::head:
      return {batch, heads};
    case Granularity::kv_head:
      if (heads_kv < 1 || heads % heads_kv != 0) {
        throw InvalidArgument("heads_kv", "must divide x's " + std::to_string(heads) +
                                              " heads, got " + std::to_string(heads_kv));
      }
      return {batch, heads_kv};
    case Granularity::token:
      if (packed) return {x.size(0), heads};
      return {x.size(0), x.size(1), heads};
    case Granularity::block:
      if (block < 1) {
        throw InvalidArgument(
            "block", "must be at least 1 for granularity 'block', got " + std::to_string(block));
      }
      if (packed) return {heads, x.size(0) / block + batch};
      return {batch, heads, x.size(1) / block + (x.size(1) % block != 0)};
  }
  return {};
}

struct QuantizeRequest {
  inline static const std::string kInputs =
      std::string("Tensor x, *, ") + kRopeSchema +
      ", bool hadamard=False, Tensor? mean=None, bool power_of_two=False, "
      "Tensor? cu_seqlens=None, Tensor? seqused=None, str? backend=None";
  static constexpr const char* kAllocate =
      ", ScalarType dtype, str granularity=\"head\", SymInt heads_kv=0, SymInt block=0, "
      "Tensor? cu_blocks=None";
  inline static const std::string kOut =
      ", Tensor(a!) dst, " + scale_schema("descale", "Tensor(b!)") + ", Tensor(c!)? out_lo=None";

  QuantizeArgs args;

  void take(Arguments& in) {
    args.x = in.tensor("x");
    args.rope = take_rope(in);
    args.hadamard = in.flag();
    args.mean = in.optional_tensor("mean");
    args.power_of_two = in.flag();
    args.cu_seqlens = in.optional_tensor("cu_seqlens");
    args.seqused = in.optional_tensor("seqused");
    args.backend = in.optional_text();
  }

  // Returns data and descale; where dtype is not one of 8 bits the latter is empty.
  std::vector<TorchTensor> allocate(Arguments& in) {
    const Dtype dtype = in.dtype("dtype");
    const std::string_view granularity = in.text();
    in.defer([&] { args.descale.granularity = granularity_from("granularity", granularity); });
    const std::int64_t heads_kv = in.integer();
    args.descale.block = in.integer();
    args.descale.cu_blocks = in.optional_tensor("cu_blocks");
    in.check();
    const Tensor& x = args.x;
    if (x.rank != (args.cu_seqlens ? 3 : 4)) return {};
    const std::span<const std::int64_t> sizes(x.shape.data(), static_cast<std::size_t>(x.rank));
    std::vector<TorchTensor> outputs;
    outputs.push_back(bridge::allocate(sizes, dtype, x.device));
    args.out = view("out", outputs.back());
    if (dtype != Dtype::e4m3 && dtype != Dtype::i8) {
      outputs.push_back(bridge::allocate(std::array{std::int64_t{0}}, Dtype::f32, x.device));
      return outputs;
    }
    outputs.push_back(bridge::allocate(descale_sizes(args, heads_kv), Dtype::f32, x.device));
    args.descale.values = view("descale", outputs.back());
    return outputs;
  }

  void bind(Arguments& in) {
    args.out = in.tensor("out");
    args.descale = take_scale(in, "descale");
    args.out_lo = in.optional_tensor("out_lo");
  }

  void run() const { quantize(args, current_stream(args.x.device)); }
  Explanation explain() const { return sotto::explain(args); }
};

struct ChannelMeanRequest {
  inline static const std::string kInputs =
      "Tensor x, *, " + scale_schema("descale") + ", SymInt max_tokens=0, " + kRopeSchema +
      ", bool hadamard=False, Tensor? cu_seqlens=None, Tensor? seqused=None, str? backend=None";

  ChannelMeanArgs args;

  void take(Arguments& in) {
    args.x = in.tensor("x", kEveryDtype);
    args.descale = take_scale(in, "descale");
    args.max_tokens = in.integer();
    args.rope = take_rope(in);
    args.hadamard = in.flag();
    args.cu_seqlens = in.optional_tensor("cu_seqlens");
    args.seqused = in.optional_tensor("seqused");
    args.backend = in.optional_text();
  }

  std::vector<TorchTensor> allocate(Arguments& in) {
    in.check();
    const Tensor& x = args.x;
    if (x.rank < 3) return {};
    const std::int64_t batch = batch_of(x, args.cu_seqlens);
    std::vector<TorchTensor> outputs;
    outputs.push_back(bridge::allocate(std::array{batch, x.size(x.rank - 2), x.size(x.rank - 1)},
                                       Dtype::f32, x.device));
    args.mean = view("mean", outputs.back());
    return outputs;
  }

  void run() const { channel_mean(args, current_stream(args.x.device)); }
  Explanation explain() const { return sotto::explain(args); }
};

void implement(Library& library) {
  implement_functional<QuantizeRequest>(library, "quantize");
  implement_into<QuantizeRequest>(library, "quantize.out");
  implement_functional<ChannelMeanRequest>(library, "channel_mean");
}

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) {
  define(library, "quantize", QuantizeRequest::kInputs + QuantizeRequest::kAllocate,
         "(Tensor data, Tensor descale)");
  define(library, "quantize.out", QuantizeRequest::kInputs + QuantizeRequest::kOut, "()");
  define(library, "channel_mean", ChannelMeanRequest::kInputs, "Tensor");
}
SOTTO_IMPLEMENT_OPS(implement)

}  // namespace
}  // namespace sotto::bridge

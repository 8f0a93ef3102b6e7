// sotto::merge_states: attention over parts of the keys becomes attention over all.
#include "op.h"
#include "sotto/merge.h"

namespace sotto::bridge {
namespace {

struct MergeRequest {
  MergeArgs args;

  void take(Arguments& in) {
    const std::vector<Tensor> outs = in.tensors("outs"), lses = in.tensors("lses");
    in.defer([&] {
      if (outs.size() != lses.size()) {
        throw InvalidArgument("lses", "must be as many as outs, " + std::to_string(outs.size()) +
                                          ", got " + std::to_string(lses.size()));
      }
      for (std::size_t i = 0; i < outs.size(); ++i)
        args.states.push_back({.out = outs[i], .lse = lses[i]});
    });
    args.output.scale = in.optional_tensor("output.scale");
    args.backend = in.optional_text();
  }

  std::vector<TorchTensor> allocate(Arguments& in) {
    const std::optional<Dtype> out_dtype = in.optional_dtype("out_dtype");
    if (args.states.empty()) return {};
    const auto& [out, lse] = args.states.front();
    const auto sizes = [](const Tensor& tensor) {
      return std::span<const std::int64_t>(tensor.shape.data(),
                                           static_cast<std::size_t>(tensor.rank));
    };
    std::vector<TorchTensor> outputs;
    outputs.push_back(bridge::allocate(sizes(out), out_dtype.value_or(out.dtype), out.device));
    outputs.push_back(bridge::allocate(sizes(lse), Dtype::f32, lse.device));
    args.out = view("out", outputs[0]);
    args.lse = view("lse", outputs[1]);
    return outputs;
  }

  void bind(Arguments& in) {
    args.out = in.tensor("out");
    args.lse = in.optional_tensor("lse");
    args.output.group_scale = in.optional_tensor("group_scale");
  }

  void run() const { merge_states(args, current_stream(args.out.device)); }
  Explanation explain() const { return sotto::explain(args); }
};

const std::string kInputs =
    "Tensor[] outs, Tensor[] lses, *, Tensor? output_scale=None, str? backend=None";

void implement(Library& library) {
  implement_functional<MergeRequest>(library, "merge_states");
  implement_into<MergeRequest>(library, "merge_states.out");
}

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) {
  define(library, "merge_states", kInputs + ", ScalarType? out_dtype=None",
         "(Tensor out, Tensor lse)");
  define(library, "merge_states.out",
         kInputs + ", Tensor(a!) dst, Tensor(b!)? lse=None, Tensor(c!)? group_scale=None", "()");
}
SOTTO_IMPLEMENT_OPS(implement)

}  // namespace
}  // namespace sotto::bridge

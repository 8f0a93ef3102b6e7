// sotto::sdpa, which quantises inside. Dense tensors are [batch, heads, len, dim], as torch's
// scaled_dot_product_attention has them; packed ones [total, heads, dim].
#include "attention_request.h"
#include "op.h"
#include "plan_cache.h"
#include "sotto/sdpa.h"

namespace sotto::bridge {
namespace {

const std::string kInputs = std::string("Tensor query, Tensor key, Tensor value, *, ") +
                            kRequestSchema + ", str recipe=\"int8qk\", " + kRopeSchema +
                            ", Tensor? positions_k=None";

struct Key {
  Problem problem;
  std::string selection;
  Recipe recipe;
  bool rope, positions;
  bool operator==(const Key&) const = default;
};

PlanCache<Key, SdpaPlan>& plans() {
  // Never destroyed: a daemon thread may still call while the process ends.
  static auto& cache = *new PlanCache<Key, SdpaPlan>;
  return cache;
}

struct SdpaRequest {
  AttentionArgs args;
  SdpaOptions options;

  bool has_torchs_layout() const { return !args.seq.cu_seqlens_q; }

  void take(Arguments& in) {
    args.q = heads_third(in.tensor("q"));
    args.k = heads_third(in.tensor("k"));
    args.v = heads_third(in.tensor("v"));
    take_request(in, args);
    const std::string_view recipe = in.text();
    in.defer([&] { options.recipe = Recipe::parse(recipe); });
    options.rope = take_rope(in);
    options.positions_k = in.optional_tensor("positions_k");
  }

  std::vector<TorchTensor> allocate(Arguments& in) { return allocate_outputs(in, args, true); }
  void bind(Arguments& in) { bind_outputs(in, args, true); }

  void run() const {
    const Key key{describe(args), selection_key(args.backend), options.recipe,
                  static_cast<bool>(options.rope), static_cast<bool>(options.rope.positions)};
    const auto plan = plans().get(key, [&] { return std::make_shared<SdpaPlan>(args, options); });
    const TorchWorkspace workspace(plan->workspace_size(), args.q.device);
    plan->run(args, options, workspace.span(), current_stream(args.q.device));
  }

  Explanation explain() const { return sotto::explain(args, options); }
};

void implement(Library& library) {
  implement_functional<SdpaRequest>(library, "sdpa");
  implement_into<SdpaRequest>(library, "sdpa.out");
}

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) {
  define(library, "sdpa", kInputs + kAllocateSchema, "Tensor");
  define(library, "sdpa.out", kInputs + kOutSchema, "()");
}
SOTTO_IMPLEMENT_OPS(implement)

}  // namespace
}  // namespace sotto::bridge

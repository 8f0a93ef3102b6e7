// sotto::attention, on the dtypes it is given: dense, packed (cu_seqlens), and over caches.
#include "attention_request.h"
#include "op.h"
#include "plan_cache.h"

namespace sotto::bridge {
namespace {

const std::string kInputs =
    std::string("Tensor q, Tensor k, Tensor v, *, ") + kRequestSchema + ", " +
    scale_schema("descale_q") + ", " + scale_schema("descale_k") + ", " +
    scale_schema("descale_v") +
    ", Tensor? page_table=None, Tensor? batch_idx=None, Tensor? k_mean=None, "
    "Tensor? v_mean=None, Tensor? v_lo=None, bool hadamard_v=False, SymInt num_splits=0, "
    "bool fast=False, bool plain_accumulation=False, Tensor? alibi_slopes=None";

struct Key {
  Problem problem;
  std::string selection;
  bool operator==(const Key&) const = default;
};

PlanCache<Key, AttentionPlan>& plans() {
  static PlanCache<Key, AttentionPlan> cache;
  return cache;
}

struct AttentionRequest {
  AttentionArgs args;

  void take(Arguments& in) {
    args.q = in.tensor("q");
    args.k = in.tensor("k");
    args.v = in.tensor("v");
    take_request(in, args);
    args.descale.q = take_scale(in, "descale_q");
    args.descale.k = take_scale(in, "descale_k");
    args.descale.v = take_scale(in, "descale_v");
    args.cache.page_table = in.optional_tensor("page_table");
    args.cache.batch_idx = in.optional_tensor("batch_idx");
    args.smoothing.k_mean = in.optional_tensor("k_mean");
    args.smoothing.v_mean = in.optional_tensor("v_mean");
    args.v_lo = in.optional_tensor("v_lo");
    args.hadamard_v = in.flag();
    args.num_splits = static_cast<int>(in.integer());
    args.fast = in.flag();
    args.accumulation = in.flag() ? Accumulation::plain : Accumulation::safe;
    args.alibi_slopes = in.optional_tensor("alibi_slopes");
  }

  std::vector<TorchTensor> allocate(Arguments& in) { return allocate_outputs(in, args, false); }
  void bind(Arguments& in) { bind_outputs(in, args, false); }

  void run() const {
    const Key key{describe(args), selection_key(args.backend)};
    const auto plan = plans().get(key, [&] { return std::make_shared<AttentionPlan>(args); });
    const TorchWorkspace workspace(plan->workspace_size(), args.q.device);
    plan->run(args, workspace.span(), current_stream(args.q.device));
  }

  Explanation explain() const { return sotto::explain(args); }
};

void implement(Library& library) {
  implement_functional<AttentionRequest>(library, "attention");
  implement_into<AttentionRequest>(library, "attention.out");
}

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) {
  define(library, "attention", kInputs + kAllocateSchema, "(Tensor out, Tensor lse)");
  define(library, "attention.out", kInputs + kOutSchema, "()");
}
SOTTO_IMPLEMENT_OPS(implement)

}  // namespace
}  // namespace sotto::bridge

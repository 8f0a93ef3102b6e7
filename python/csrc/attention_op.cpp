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
  // Never destroyed: a daemon thread may still call while the process ends.
  static auto& cache = *new PlanCache<Key, AttentionPlan>;
  return cache;
}

struct AttentionRequest {
  AttentionArgs args;

  void take(Arguments& in) {
    args.q = in.tensor("q", kEveryDtype);
    args.k = in.tensor("k", kEveryDtype);
    args.v = in.tensor("v", kEveryDtype);
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
    const std::int64_t num_splits = in.integer();
    in.defer([&] { args.num_splits = to_int("num_splits", num_splits); });
    args.fast = in.flag();
    args.accumulation = in.flag() ? Accumulation::plain : Accumulation::safe;
    args.alibi_slopes = in.optional_tensor("alibi_slopes");
  }

  std::vector<TorchTensor> allocate(Arguments& in) { return allocate_outputs(in, args, false); }
  void bind(Arguments& in) { bind_outputs(in, args, false); }

  // Throws what is wrong with the request.
  std::shared_ptr<const AttentionPlan> plan() const {
    const Key key{describe(args), selection_key(args.backend)};
    return plans().get(key, [&] { return std::make_shared<AttentionPlan>(args); });
  }

  void run() const {
    const auto plan = this->plan();
    const TorchWorkspace workspace(plan->workspace_size(), args.q.device);
    plan->run(args, workspace.span(), current_stream(args.q.device));
  }

  Explanation explain() const { return sotto::explain(args); }
};

// sotto::check_attention: whether sotto::attention would run, for who has something to write first.
const std::string kCheckOutputs =
    std::string(kAllocateSchema) + ", Tensor? dst=None, Tensor? lse=None, Tensor? group_scale=None";

void check_attention(StableIValue* stack, std::uint64_t, std::uint64_t) {
  with_request<AttentionRequest>([&](AttentionRequest& request) {
    Arguments in(stack);
    request.take(in);
    const std::vector<TorchTensor> outputs = request.allocate(in);
    if (const Tensor dst = in.optional_tensor("out")) request.args.out = dst;
    request.args.lse = in.optional_tensor("lse");
    request.args.output.group_scale = in.optional_tensor("group_scale");
    in.check();
    request.plan();
  });
}

void implement(Library& library) {
  implement_functional<AttentionRequest>(library, "attention");
  implement_into<AttentionRequest>(library, "attention.out");
  library.impl("check_attention", check_attention);
}

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) {
  define(library, "attention", kInputs + kAllocateSchema, "Tensor");
  define(library, "attention.out", kInputs + kOutSchema, "()");
  library.def(("check_attention(" + kInputs + kCheckOutputs + ") -> ()").c_str());
}
SOTTO_IMPLEMENT_OPS(implement)

}  // namespace
}  // namespace sotto::bridge

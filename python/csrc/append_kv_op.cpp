// sotto::append_kv: new keys and values into a cache, in place.
#include "op.h"
#include "sotto/kv_cache.h"

namespace sotto::bridge {
namespace {

const std::string kInputs =
    "Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor cache_seqlens, *, "
    "Tensor? cu_seqlens=None, Tensor? page_table=None, Tensor? batch_idx=None, " +
    scale_schema("k_descale", "Tensor(c!)") + ", " + scale_schema("v_descale", "Tensor(d!)") +
    ", " + kRopeSchema +
    ", bool hadamard_k=False, bool hadamard_v=False, Tensor? k_mean=None, Tensor? v_mean=None, "
    "str? backend=None";

struct AppendRequest {
  AppendKvArgs args;

  void take(Arguments& in) {
    args.k = in.tensor("k");
    args.v = in.tensor("v");
    args.k_cache = in.tensor("k_cache");
    args.v_cache = in.tensor("v_cache");
    args.cache_seqlens = in.tensor("cache_seqlens");
    args.cu_seqlens = in.optional_tensor("cu_seqlens");
    args.page_table = in.optional_tensor("page_table");
    args.batch_idx = in.optional_tensor("batch_idx");
    args.k_descale = take_scale(in, "k_descale");
    args.v_descale = take_scale(in, "v_descale");
    args.rope = take_rope(in);
    args.hadamard_k = in.flag();
    args.hadamard_v = in.flag();
    args.k_mean = in.optional_tensor("k_mean");
    args.v_mean = in.optional_tensor("v_mean");
    args.backend = in.optional_text();
  }
  void bind(Arguments&) {}  // written in place: the caches are inputs, too

  void run() const { append_kv(args, current_stream(args.k.device)); }
  Explanation explain() const { return sotto::explain(args); }
};

void implement(Library& library) { implement_into<AppendRequest>(library, "append_kv"); }

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) { define(library, "append_kv", kInputs, "()"); }
SOTTO_IMPLEMENT_OPS(implement)

}  // namespace
}  // namespace sotto::bridge

#include "mirror.h"
#include "output_reader.h"
#include "request.h"

namespace sotto::test {
namespace {

// The request with outputs to write and a backend to run on, where that computes.
struct Run {
  Run(const AttentionCase& c, const Request& request, const std::string& backend, double amax)
      : reader(c, request.q, arena, amax), mirror(backend), args(request.args) {
    args.backend = backend;
    args.out = reader.out();
    args.output = reader.output();
    args.lse = reader.lse();
    args = mirror.place(args);
    options = mirror.place(request.options);
  }

  Arena arena;
  OutputReader reader;
  Mirror mirror;
  AttentionArgs args;
  SdpaOptions options;
};

}  // namespace

Result run(const AttentionCase& c, const Request& request, const std::string& backend, double amax,
           int garbage) {
  Run run(c, request, backend, amax);
  // Nothing may be read in a workspace before it is written.
  const auto workspace_of = [&](const auto& plan) {
    return run.mirror.workspace(plan.workspace_size(), garbage);
  };
  if (c.recipe) {
    const SdpaPlan plan(run.args, run.options);
    plan.run(run.args, run.options, workspace_of(plan));
  } else {
    const AttentionPlan plan(run.args);
    plan.run(run.args, workspace_of(plan));
  }
  run.mirror.read_back();
  return run.reader.read();
}

Result run_plain(const AttentionCase& c, const Request& request, const std::string& backend,
                 int garbage) {
  AttentionCase plain = c;
  plain.output = OutputKind::plain;
  plain.dtype_out = Dtype::f32;
  plain.group = 0;
  plain.lse = true;
  return run(plain, request, backend, 0, garbage);
}

Explanation explain_case(const AttentionCase& c, const Request& request,
                         const std::string& backend) {
  const Run run(c, request, backend, 1);
  return c.recipe ? explain(run.args, run.options) : explain(run.args);
}

std::int64_t rows_q(const AttentionCase& c, std::size_t b) {
  if (c.packed_q) return c.len_q[b] + c.padding_q;
  return c.capacity_q();
}

}  // namespace sotto::test

// AttentionPlan and attention().
#include <fmt/format.h>

#include <atomic>
#include <string>

#include "core/aligned_buffer.h"
#include "core/environment.h"
#include "core/log.h"
#include "core/pointers.h"
#include "core/request_text.h"
#include "core/select.h"
#include "core/validate.h"

namespace sotto {
namespace {

// Rank-2 scales of Q are per head or per kv head; their shape tells. Backends see which.
AttentionArgs with_resolved_scales(const AttentionArgs& args, const Problem& problem) {
  AttentionArgs resolved = args;
  resolved.descale.q.granularity = problem.granularity_q;
  return resolved;
}

void warn_of_missing_descale(const AttentionArgs& args) {
  static std::atomic<bool> warned{false};
  const auto missing = [](const Tensor& tensor, const Scale& scale) {
    return tensor.dtype == Dtype::e4m3 && !scale;
  };
  if (!missing(args.q, args.descale.q) && !missing(args.k, args.descale.k) &&
      !missing(args.v, args.descale.v)) {
    return;
  }
  if (warned.exchange(true)) return;
  core::log(
      LogLevel::warning,
      "attention: e4m3 input without a descale counts as scale 1; set args.descale if the data "
      "was scaled (this is said once)");
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionArgs& args)
    : problem_(std::make_unique<const Problem>(describe(args))) {
  warn_of_missing_descale(args);
  backend_ =
      core::select_or_throw(core::request_text(*problem_), args.backend,
                            [&](const Backend& backend) { return backend.refuse(*problem_); });
  const cuda::DeviceGuard guard(problem_->device);
  kernel_ = backend_->plan(with_resolved_scales(args, *problem_), *problem_);
  core::check_planned(*backend_, kernel_.get());
  if (core::read_environment().log_debug) {
    core::log(LogLevel::debug, fmt::format("plan on {}, workspace {} bytes", backend_->name(),
                                           kernel_->workspace_size()));
  }
}

AttentionPlan::~AttentionPlan() = default;
AttentionPlan::AttentionPlan(AttentionPlan&&) noexcept = default;
AttentionPlan& AttentionPlan::operator=(AttentionPlan&&) noexcept = default;

std::size_t AttentionPlan::workspace_size() const { return kernel_->workspace_size(); }
std::string_view AttentionPlan::backend() const { return backend_->name(); }

void AttentionPlan::run(const AttentionArgs& args, Workspace workspace, Stream stream) const {
  const Problem problem = describe(args);
  if (const std::string difference = core::first_difference(*problem_, problem);
      !difference.empty()) {
    core::fail("args", "do not fit the plan: {}", difference);
  }
  core::check_workspace(workspace, workspace_size(), problem.device, stream);
  core::check_contents(args, problem);
  core::check_pointers(args, stream);
  const cuda::DeviceGuard guard(problem.device);
  kernel_->run(with_resolved_scales(args, problem), workspace, stream);
}

void attention(const AttentionArgs& args, Stream stream) {
  const AttentionPlan plan(args);
  const core::AlignedBuffer workspace(plan.workspace_size(), args.q.device, stream);
  plan.run(args, workspace.span(), stream);
}

Explanation explain(const AttentionArgs& args) {
  const Problem problem = describe(args);
  return core::select(core::request_text(problem), args.backend,
                      [&](const Backend& backend) { return backend.refuse(problem); })
      .explanation;
}

}  // namespace sotto

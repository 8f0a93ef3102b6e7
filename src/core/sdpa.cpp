// SdpaPlan, quantize_qkv() and sdpa().
#include "sotto/sdpa.h"

#include <atomic>
#include <string>

#include "core/aligned_buffer.h"
#include "core/log.h"
#include "core/pointers.h"
#include "core/request_text.h"
#include "core/sdpa_composed.h"
#include "core/select.h"
#include "core/validate.h"

namespace sotto {
namespace {

std::string request_text(const Problem& problem, const SdpaOptions& options) {
  return "sdpa by " + to_string(options.recipe) + (options.rope ? " with RoPE, " : ", ") +
         core::request_text(problem);
}

// One query against a cache, RoPE, and no word on where it stands: it would be rotated as the
// first.
void warn_of_query_positions(const SdpaOptions& options, const Problem& problem) {
  static std::atomic<bool> warned{false};
  if (!options.rope || options.rope.positions || problem.packed_q || problem.packed_k ||
      problem.mask_align != Mask::Align::top_left || problem.len_q >= problem.len_k ||
      warned.exchange(true)) {
    return;
  }
  core::log(LogLevel::warning,
            "sdpa: queries without rope.positions stand at positions 0, 1, … under a mask aligned "
            "top left; for new tokens after a cache give rope.positions and positions_k, or align "
            "the mask bottom right (this is said once)");
}

Problem checked(const AttentionArgs& args, const SdpaOptions& options) {
  core::check_takes_floats(args);
  const Problem problem = describe(args);
  core::check(args, options, problem);
  return problem;
}

}  // namespace

Reasons Backend::refuse_sdpa(const AttentionArgs& args, const SdpaOptions& options) const {
  return core::refuse_composed_sdpa(*this, args, options);
}

std::unique_ptr<const SdpaKernel> Backend::plan_sdpa(const AttentionArgs& args,
                                                     const SdpaOptions& options) const {
  return core::compose_sdpa(*this, args, options);
}

SdpaPlan::SdpaPlan(const AttentionArgs& args, const SdpaOptions& options)
    : problem_(std::make_unique<const Problem>(checked(args, options))),
      rope_(static_cast<bool>(options.rope)),
      positions_(static_cast<bool>(options.rope.positions)),
      backend_(core::select_or_throw(
          request_text(*problem_, options), args.backend,
          [&](const Backend& backend) { return backend.refuse_sdpa(args, options); })) {
  const cuda::DeviceGuard guard(problem_->device);
  kernel_ = backend_->plan_sdpa(args, options);
  warn_of_query_positions(options, *problem_);
}

SdpaPlan::~SdpaPlan() = default;
SdpaPlan::SdpaPlan(SdpaPlan&&) noexcept = default;
SdpaPlan& SdpaPlan::operator=(SdpaPlan&&) noexcept = default;

std::size_t SdpaPlan::workspace_size() const { return kernel_->workspace_size(); }
std::string_view SdpaPlan::backend() const { return backend_->name(); }
const Recipe& SdpaPlan::recipe() const { return kernel_->recipe(); }

void SdpaPlan::check_fits(const AttentionArgs& args, const SdpaOptions& options) const {
  const Problem problem = checked(args, options);
  if (const std::string difference = core::first_difference(*problem_, problem);
      !difference.empty()) {
    core::fail("args", "do not fit the plan: {}", difference);
  }
  if (!(options.recipe == recipe())) {
    core::fail("options.recipe", "was {} in the plan, is {}", to_string(recipe()),
               to_string(options.recipe));
  }
  if (static_cast<bool>(options.rope) != rope_) {
    core::fail("options.rope", "was {} in the plan, is {}", rope_ ? "given" : "absent",
               options.rope ? "given" : "absent");
  }
  if (static_cast<bool>(options.rope.positions) != positions_) {
    core::fail("options.rope.positions", "were {} in the plan, are {}",
               positions_ ? "given" : "absent", positions_ ? "absent" : "given");
  }
  core::check_contents(args, options, problem);
}

QuantizedQkv quantize_qkv(const AttentionArgs& args, const SdpaOptions& options,
                          const SdpaPlan& plan, Workspace workspace, Stream stream) {
  plan.check_fits(args, options);
  core::check_workspace(workspace, plan.workspace_size(), plan.problem_->device, stream);
  core::check_pointers(args, stream);
  core::check_pointers(options, stream);
  const cuda::DeviceGuard guard(plan.problem_->device);
  return plan.kernel_->quantize(args, options, workspace, stream);
}

void SdpaPlan::run(const QuantizedQkv& qkv, Workspace workspace, Stream stream) const {
  core::check_workspace(workspace, workspace_size(), problem_->device, stream);
  const cuda::DeviceGuard guard(problem_->device);
  kernel_->attend(qkv, workspace, stream);
}

void SdpaPlan::run(const AttentionArgs& args, const SdpaOptions& options, Workspace workspace,
                   Stream stream) const {
  run(quantize_qkv(args, options, *this, workspace, stream), workspace, stream);
}

void sdpa(const AttentionArgs& args, const SdpaOptions& options, Stream stream) {
  const SdpaPlan plan(args, options);
  const core::AlignedBuffer workspace(plan.workspace_size(), args.q.device, stream);
  plan.run(args, options, workspace.span(), stream);
}

Explanation explain(const AttentionArgs& args, const SdpaOptions& options) {
  const Problem problem = checked(args, options);
  return core::select(request_text(problem, options), args.backend,
                      [&](const Backend& backend) { return backend.refuse_sdpa(args, options); })
      .explanation;
}

}  // namespace sotto

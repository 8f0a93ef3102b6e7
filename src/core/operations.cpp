// The operations without a plan: check, select, run.
#include <fmt/format.h>

#include <string>

#include "core/pointers.h"
#include "core/select.h"
#include "core/validate.h"

namespace sotto {
namespace {

std::string request_text(const QuantizeArgs& args) {
  return fmt::format("quantize x {} to {}{}{}", to_string(args.x), dtype_name(args.out.dtype),
                     args.rope ? ", RoPE" : "", args.hadamard ? ", Hadamard" : "");
}
std::string request_text(const ChannelMeanArgs& args) {
  return fmt::format("channel_mean of x {}", to_string(args.x));
}
std::string request_text(const AppendKvArgs& args) {
  return fmt::format("append_kv k {} to {}{}", to_string(args.k), args.page_table ? "paged " : "",
                     to_string(args.k_cache));
}
std::string request_text(const MergeArgs& args) {
  return fmt::format("merge {} states {} to {}", args.states.size(),
                     to_string(args.states.front().out), dtype_name(args.out.dtype));
}

Device device_of(const QuantizeArgs& args) { return args.x.device; }
Device device_of(const ChannelMeanArgs& args) { return args.x.device; }
Device device_of(const AppendKvArgs& args) { return args.k.device; }
Device device_of(const MergeArgs& args) { return args.out.device; }

template <class Args>
void run(const Args& args, Stream stream) {
  core::check(args);
  core::check_contents(args);
  core::check_pointers(args, stream);
  const auto backend =
      core::select_or_throw(request_text(args), args.backend,
                            [&](const Backend& candidate) { return candidate.refuse(args); });
  const cuda::DeviceGuard guard(device_of(args));
  backend->run(args, stream);
}

template <class Args>
Explanation explain_operation(const Args& args) {
  core::check(args);
  return core::select(request_text(args), args.backend,
                      [&](const Backend& backend) { return backend.refuse(args); })
      .explanation;
}

Reasons not_built(const Backend& backend, std::string_view operation) {
  return {fmt::format("{} has no {}", backend.name(), operation)};
}

[[noreturn]] void throw_not_built(const Backend& backend, std::string_view operation) {
  throw Unsupported(not_built(backend, operation).front());
}

}  // namespace

void quantize(const QuantizeArgs& args, Stream stream) { run(args, stream); }
void channel_mean(const ChannelMeanArgs& args, Stream stream) { run(args, stream); }
void append_kv(const AppendKvArgs& args, Stream stream) { run(args, stream); }
void merge_states(const MergeArgs& args, Stream stream) { run(args, stream); }

Explanation explain(const QuantizeArgs& args) { return explain_operation(args); }
Explanation explain(const ChannelMeanArgs& args) { return explain_operation(args); }
Explanation explain(const AppendKvArgs& args) { return explain_operation(args); }
Explanation explain(const MergeArgs& args) { return explain_operation(args); }

Reasons Backend::refuse(const QuantizeArgs&) const { return not_built(*this, "quantize"); }
Reasons Backend::refuse(const ChannelMeanArgs&) const { return not_built(*this, "channel_mean"); }
Reasons Backend::refuse(const AppendKvArgs&) const { return not_built(*this, "append_kv"); }
Reasons Backend::refuse(const MergeArgs&) const { return not_built(*this, "merge_states"); }

void Backend::run(const QuantizeArgs&, Stream) const { throw_not_built(*this, "quantize"); }
void Backend::run(const ChannelMeanArgs&, Stream) const { throw_not_built(*this, "channel_mean"); }
void Backend::run(const AppendKvArgs&, Stream) const { throw_not_built(*this, "append_kv"); }
void Backend::run(const MergeArgs&, Stream) const { throw_not_built(*this, "merge_states"); }

}  // namespace sotto

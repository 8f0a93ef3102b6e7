#include "op.h"

#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace sotto::bridge {
namespace {

using Name = std::pair<std::string_view, std::string_view>;  // ours, Python's

// How the library calls an argument, and how Python does. Of structs only the member is left.
std::string python_name(std::string_view argument, bool torchs_layout) {
  constexpr std::array kNames{Name{"mask.dense", "attn_mask"}, Name{"mask.left", "window"},
                              Name{"mask.right", "window"}, Name{"output.scale", "output_scale"},
                              Name{"output.group_scale", "group_scale"}};
  for (const auto& [ours, pythons] : kNames)
    if (argument == ours) return std::string(pythons);
  if (torchs_layout) {
    constexpr std::array kInputs{Name{"q", "query"}, Name{"k", "key"}, Name{"v", "value"}};
    for (const auto& [ours, torchs] : kInputs)
      if (argument == ours) return std::string(torchs);
  }
  if (argument.starts_with("descale.")) {
    std::string name(argument);
    name[std::string_view("descale").size()] = '_';
    return name;
  }
  for (const std::string_view group : {"seq.", "cache.", "smoothing."})
    if (argument.starts_with(group)) return std::string(argument.substr(group.size()));
  return std::string(argument);
}

}  // namespace

void rethrow(const InvalidArgument& error, bool torchs_layout) {
  const std::string_view problem =
      std::string_view(error.what()).substr(error.argument().size());  // ": must be …"
  const std::string& argument = error.argument();
  std::string text = python_name(argument, torchs_layout) + std::string(problem);
  const bool transposed =
      argument == "q" || argument == "k" || argument == "v" || argument == "out";
  if (torchs_layout && transposed && problem.find('[') != std::string_view::npos)
    text += " (sizes as [batch, len, heads, dim])";
  throw std::runtime_error(text);
}

std::string joined(const Reasons& reasons) {
  std::string lines;
  for (const std::string& reason : reasons) lines += (lines.empty() ? "" : "\n") + reason;
  return lines;
}

void push(StableIValue* stack, const Explanation& explanation) {
  std::vector<std::string> backends, reasons;
  std::vector<std::int64_t> priorities;
  std::string chosen;
  for (const BackendAnswer& answer : explanation.answers) {
    backends.push_back(answer.backend);
    priorities.push_back(answer.priority);
    if (answer.chosen) chosen = answer.backend;
    reasons.push_back(joined(answer.reasons));
  }
  using torch::stable::detail::from;
  stack[0] = from(explanation.text());
  stack[1] = from(explanation.request);
  stack[2] = from(backends);
  stack[3] = from(priorities);
  stack[4] = from(chosen);
  stack[5] = from(reasons);
}

}  // namespace sotto::bridge

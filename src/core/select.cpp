#include "core/select.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/check.h"
#include "core/environment.h"
#include "core/log.h"
#include "core/registry.h"

namespace sotto::core {
namespace {

using Backends = std::vector<std::shared_ptr<const Backend>>;

void check_name(std::string_view argument, std::string_view name, const Backends& all) {
  std::vector<std::string_view> known;
  for (const auto& backend : all) known.push_back(backend->name());
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    fail(argument, "no backend is named '{}'; known: {}", name, fmt::join(known, ", "));
  }
}

// Who asked for one particular backend, and which.
struct Wish {
  std::string source, name;
};

Wish find_wish(std::string_view wanted, const std::string& activated,
               const Environment& environment) {
  if (!wanted.empty()) return {"backend", std::string(wanted)};
  if (!activated.empty()) return {"activated backend", activated};
  return {"SOTTO_BACKEND", environment.backend};
}

}  // namespace

Selection select(std::string request, std::string_view wanted, const Ask& ask) {
  const Environment environment = read_environment();
  const auto [all, activated] = registered();
  for (const std::string& name : environment.disabled) check_name("SOTTO_DISABLE", name, all);
  const Wish wish = find_wish(wanted, activated, environment);
  if (!wish.name.empty()) check_name(wish.source, wish.name, all);

  Selection selection;
  selection.explanation.request = std::move(request);
  for (const auto& backend : all) {
    BackendAnswer answer{.backend = std::string(backend->name()), .priority = backend->priority()};
    answer.reasons = backend->unusable();
    if (answer.reasons.empty()) answer.reasons = ask(*backend);
    if (!wish.name.empty() && wish.name != answer.backend) {
      answer.reasons.push_back(fmt::format("{} asks for '{}'", wish.source, wish.name));
    } else if (wish.name.empty() &&
               std::find(environment.disabled.begin(), environment.disabled.end(),
                         answer.backend) != environment.disabled.end()) {
      answer.reasons.emplace_back("disabled by SOTTO_DISABLE");
    }
    if (answer.reasons.empty() && selection.backend == nullptr) {
      answer.chosen = true;
      selection.backend = backend;
    }
    selection.explanation.answers.push_back(std::move(answer));
  }
  return selection;
}

std::shared_ptr<const Backend> select_or_throw(std::string request, std::string_view wanted,
                                               const Ask& ask) {
  Selection selection = select(std::move(request), wanted, ask);
  if (read_environment().log_explain) log(LogLevel::explain, selection.explanation.text());
  if (selection.backend == nullptr) {
    std::string table = selection.explanation.text();
    table.pop_back();  // the last line's end
    throw Unsupported("no backend takes this request; their reasons:\n" + table);
  }
  return selection.backend;
}

void check_planned(const Backend& backend, const void* kernel) {
  if (kernel != nullptr) return;
  throw Error(fmt::format("backend '{}' accepted the request, but its plan() returned null",
                          backend.name()));
}

}  // namespace sotto::core

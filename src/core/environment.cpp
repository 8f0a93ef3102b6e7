#include "core/environment.h"

#include <cstdlib>
#include <string_view>

#include "core/check.h"

namespace sotto::core {
namespace {

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view{} : std::string_view(value);
}

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

Environment read_environment() {
  Environment environment;
  environment.backend = trim(variable("SOTTO_BACKEND"));
  std::string_view rest = variable("SOTTO_DISABLE");
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const std::string_view name = trim(rest.substr(0, comma));
    if (!name.empty()) environment.disabled.emplace_back(name);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  }
  const std::string_view log = trim(variable("SOTTO_LOG"));
  environment.log_debug = log == "debug";
  environment.log_explain = log == "explain" || environment.log_debug;
  if (!log.empty() && !environment.log_explain) {
    fail("SOTTO_LOG", "must be explain or debug, got '{}'", log);
  }
  return environment;
}

}  // namespace sotto::core

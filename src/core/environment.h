// The environment switches, read anew at every selection.
#pragma once

#include <string>
#include <vector>

namespace sotto::core {

struct Environment {
  std::string backend;                // SOTTO_BACKEND
  std::vector<std::string> disabled;  // SOTTO_DISABLE=name,name
  bool log_explain = false;           // SOTTO_LOG=explain or debug
  bool log_debug = false;             // SOTTO_LOG=debug
};

// Throws InvalidArgument for a SOTTO_LOG that is neither.
Environment read_environment();

}  // namespace sotto::core

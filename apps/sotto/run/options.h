// The options of `sotto run`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "option_values.h"
#include "run/request.h"
#include "run/result.h"

namespace sotto::cli {

struct RunCommand {
  RunOptions request;
  ResultOptions result;
  std::string compare;
  std::optional<double> min_sqnr;
  std::int64_t threads = 0;  // 0: all
  bool explain = false;
  JsonOption json;
};

// Adds the sub-command's options to `app`; parsing fills `command`, which must outlive it.
void add_run_options(CLI::App& app, RunCommand& command);

// What one option cannot see alone. Throws UsageError, and Error where an output file could not be
// written.
void check_run_options(const RunCommand& command);

}  // namespace sotto::cli

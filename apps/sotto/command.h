// What main.cpp knows of a sub-command.
#pragma once

#include <functional>
#include <stdexcept>

#include <CLI/CLI.hpp>

namespace sotto::cli {

enum ExitCode { kOk = 0, kFailure = 1, kUsage = 2 };

// The command line is wrong: exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Command {
  CLI::App* app;
  std::function<void()> run;  // after the options have been parsed
};

Command add_bench(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_info(CLI::App& app);
Command add_run(CLI::App& app);

}  // namespace sotto::cli

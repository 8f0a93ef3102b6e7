// The program `sotto`: finds the sub-command, and turns what goes wrong into one line on standard
// error and an exit code.
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "sotto/version.h"
#include "suggest.h"

namespace sotto::cli {
namespace {

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::vector<std::string> command_names(const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& command : commands) names.push_back(command.app->get_name());
  return names;
}

// CLI11 would name what it does not know, but not what was meant.
void refuse_unknown(const CLI::App& app, const std::vector<std::string>& commands) {
  const std::vector<std::string> unknown = app.remaining();
  if (unknown.empty()) return;
  const std::string word = unknown[0].substr(0, unknown[0].find('='));
  const bool option = word.starts_with('-');
  if (!option && commands.empty()) throw UsageError(fmt::format("unexpected argument '{}'", word));
  const std::string meant = nearest(word, option ? option_names(app) : commands);
  throw UsageError(fmt::format("unknown {} '{}'{}", option ? "option" : "command", word,
                               meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant)));
}

int run(int argc, char** argv) {
  CLI::App app("Low-precision attention: what it costs, what this machine can do.", "sotto");
  app.set_version_flag("--version", fmt::format("sotto {}", version()));
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.footer(
      "'sotto COMMAND --help' tells a command's options.\n\n"
      "Exit codes: 0 done, 1 something went wrong, 2 the command line is wrong.");
  app.allow_extras();
  app.require_subcommand(0, 1);
  const std::vector<Command> commands = {add_run(app), add_bench(app), add_eval(app),
                                         add_info(app)};
  for (const Command& command : commands) command.app->allow_extras();

  const auto report = [&commands](ExitCode code, const std::string& what) {
    std::string name = "sotto";
    for (const Command& command : commands)
      if (command.app->parsed()) name += " " + command.app->get_name();
    const std::string hint =
        code == kUsage ? fmt::format("\nRun '{} --help' for its options.", name) : "";
    std::fputs(fmt::format("{}: {}{}\n", name, what, hint).c_str(), stderr);
    return code;
  };
  try {
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& asked) {  // --help, --version
      return app.exit(asked);
    } catch (const CLI::ParseError& error) {
      throw UsageError(error.what());
    }
    refuse_unknown(app, command_names(commands));
    for (const Command& command : commands) {
      if (!command.app->parsed()) continue;
      refuse_unknown(*command.app, {});
      command.run();
      if (std::fflush(stdout) != 0) return report(kFailure, "cannot write to standard output");
      return kOk;
    }
    throw UsageError(
        fmt::format("no command given; there are: {}", fmt::join(command_names(commands), ", ")));
  } catch (const UsageError& error) {
    return report(kUsage, error.what());
  } catch (const std::bad_alloc&) {
    return report(kFailure, "out of memory");
  } catch (const std::exception& error) {
    return report(kFailure, error.what());
  }
}

}  // namespace
}  // namespace sotto::cli

int main(int argc, char** argv) { return sotto::cli::run(argc, argv); }

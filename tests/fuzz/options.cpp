// The program's command line: the options of every sub-command, read and checked. Nothing is run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "command.h"
#include "target.h"

using namespace sotto;

// A word a line.
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> words = CLI::detail::split(text, '\n');
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  CLI::App app;
  const std::vector<cli::Command> commands = {cli::add_run(app), cli::add_bench(app),
                                              cli::add_eval(app), cli::add_info(app)};
  try {
    app.parse(words);
  } catch (const CLI::Error&) {
  } catch (const cli::UsageError&) {
  }
  return 0;
}

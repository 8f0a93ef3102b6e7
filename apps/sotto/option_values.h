// What the sub-commands' options have in common: values that CLI11 would take too lightly.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "command.h"
#include "sotto/recipe.h"

namespace sotto::cli {

inline constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int64_t kMaxThreads = 1024;

// All of these throw UsageError, which names the option and the value.

// "512"; with a suffix k or m, 1,024 or 1,048,576 of them.
std::int64_t parse_count(const std::string& option, const std::string& text, std::int64_t least,
                         std::int64_t most = kNoLimit);
// A finite number.
double parse_number(const std::string& option, const std::string& text);
// The parts between commas; empty ones, too.
std::vector<std::string> split(const std::string& list);
// One of the names, or an error that lists them.
template <class T>
T parse_choice(const std::string& option, const std::string& text,
               std::initializer_list<std::pair<std::string_view, T>> choices) {
  std::vector<std::string_view> names;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    names.push_back(name);
  }
  throw UsageError(fmt::format("{}: expected {}, got '{}'", option, fmt::join(names, ", "), text));
}
Recipe parse_recipe(const std::string& option, const std::string& text);
void check_backend(const std::string& option, const std::string& name);
void check_ending(const std::string& option, const std::string& path,
                  std::initializer_list<std::string_view> endings);

// An option whose value is a number from `least` to `most`.
CLI::Option* add_count(CLI::App& app, const std::string& option, std::int64_t& count,
                       const std::string& description, std::int64_t least,
                       std::int64_t most = kNoLimit);
CLI::Option* add_number(CLI::App& app, const std::string& option, std::optional<double>& number,
                        const std::string& description);
// An option whose text goes to `parse(option, text)`, which stores it or throws.
template <class F>
CLI::Option* add_parsed(CLI::App& app, const std::string& option, const std::string& type,
                        const std::string& description, F parse) {
  return app
      .add_option_function<std::string>(
          option, [option, parse](const std::string& text) { parse(option, text); }, description)
      ->type_name(type);
}
// --threads, --backend, as every sub-command spells them.
CLI::Option* add_threads(CLI::App& app, std::int64_t& threads);
CLI::Option* add_backend(CLI::App& app, std::string& backend);
// 0 leaves it as it is.
void use_threads(std::int64_t threads);

// --json [FILE]: absent: text; without a value, or "-": JSON to standard output instead of text;
// with a FILE (.json): to that as well.
struct JsonOption {
  bool to_stdout = false;
  std::string file = {};
};
CLI::Option* add_json(CLI::App& app, JsonOption& json);

}  // namespace sotto::cli

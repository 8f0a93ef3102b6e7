#include "option_values.h"

#include <omp.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "sotto/backend.h"
#include "sotto/error.h"

namespace sotto::cli {

std::int64_t parse_count(const std::string& option, const std::string& text, std::int64_t least,
                         std::int64_t most) {
  std::int64_t count = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, count);
  std::int64_t unit = 1;
  if (end - stopped == 1 && stopped != text.data()) {
    if (*stopped == 'k' || *stopped == 'K') unit = 1024;
    if (*stopped == 'm' || *stopped == 'M') unit = 1024 * 1024;
  }
  const bool read = error == std::errc() && (stopped == end || unit > 1) &&
                    !__builtin_mul_overflow(count, unit, &count);
  if (!read || count < least)
    throw UsageError(
        fmt::format("{}: expected a number of at least {}, got '{}'", option, least, text));
  if (count > most)
    throw UsageError(fmt::format("{}: expected at most {}, got {}", option, most, text));
  return count;
}

double parse_number(const std::string& option, const std::string& text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stopped != end || !std::isfinite(number))
    throw UsageError(fmt::format("{}: expected a number, got '{}'", option, text));
  return number;
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t comma; (comma = list.find(',', begin)) != std::string::npos; begin = comma + 1)
    parts.push_back(list.substr(begin, comma - begin));
  parts.push_back(list.substr(begin));
  return parts;
}

Recipe parse_recipe(const std::string& option, const std::string& text) {
  try {
    return Recipe::parse(text);
  } catch (const Error& error) {
    throw UsageError(fmt::format("{}: {}", option, error.what()));
  }
}

void check_backend(const std::string& option, const std::string& name) {
  std::vector<std::string_view> names;
  const auto known = backends::list();
  for (const auto& backend : known) names.push_back(backend->name());
  if (std::find(names.begin(), names.end(), name) == names.end())
    throw UsageError(
        fmt::format("{}: unknown '{}'; known: {}", option, name, fmt::join(names, ", ")));
}

void check_ending(const std::string& option, const std::string& path,
                  std::initializer_list<std::string_view> endings) {
  const bool fits = std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) {
    return path.size() > ending.size() && path.ends_with(ending);
  });
  if (!fits)
    throw UsageError(fmt::format("{}: expected a file name ending in {}, got '{}'", option,
                                 fmt::join(endings, " or "), path));
}

CLI::Option* add_count(CLI::App& app, const std::string& option, std::int64_t& count,
                       const std::string& description, std::int64_t least, std::int64_t most) {
  return add_parsed(app, option, "N", description,
                    [&count, least, most](const std::string& name, const std::string& text) {
                      count = parse_count(name, text, least, most);
                    });
}

CLI::Option* add_number(CLI::App& app, const std::string& option, std::optional<double>& number,
                        const std::string& description) {
  return add_parsed(app, option, "X", description,
                    [&number](const std::string& name, const std::string& text) {
                      number = parse_number(name, text);
                    });
}

CLI::Option* add_threads(CLI::App& app, std::int64_t& threads) {
  return add_count(app, "--threads", threads, "CPU threads; default: all", 1, kMaxThreads);
}

CLI::Option* add_backend(CLI::App& app, std::string& backend) {
  return add_parsed(app, "--backend", "NAME",
                    "Run attention on this backend (see 'sotto info'); default: chosen by rules",
                    [&backend](const std::string& name, const std::string& text) {
                      check_backend(name, text);
                      backend = text;
                    });
}

void use_threads(std::int64_t threads) {
  if (threads > 0) omp_set_num_threads(static_cast<int>(threads));
}

CLI::Option* add_json(CLI::App& app, JsonOption& json) {
  return app
      .add_option_function<std::string>(
          "--json",
          [&json](const std::string& text) {
            if (text.empty() || text == "-") {
              json.to_stdout = true;
            } else {
              check_ending("--json", text, {".json"});
              json.file = text;
            }
          },
          "Print JSON instead of text; with a FILE, write it there and print text")
      ->type_name("FILE")
      ->expected(0, 1);
}

}  // namespace sotto::cli

#include "run/report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace sotto::cli {
namespace {

using Json = nlohmann::ordered_json;

// "[0, 3, 1, 17]" of a place in a contiguous array.
std::vector<std::int64_t> index_of(std::size_t place, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> index(shape.size());
  auto rest = static_cast<std::int64_t>(place);
  for (std::size_t d = shape.size(); d-- > 0;) {
    index[d] = rest % shape[d];
    rest /= shape[d];
  }
  return index;
}

std::string place_text(std::size_t place, const std::vector<std::int64_t>& shape,
                       const std::pair<float, float>& values) {
  return fmt::format("[{}]: {:.9g}, expected {:.9g}", fmt::join(index_of(place, shape), ", "),
                     values.first, values.second);
}

// JSON has no infinity: null, and `identical` or the counts say what it means.
Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

std::string to_text(const RunSummary& summary) {
  std::string text;
  if (summary.explain) text += summary.explanation.text() + "\n";
  text += fmt::format("request  {}\n", summary.explanation.request);
  if (!summary.recipe.empty()) text += fmt::format("recipe   {}\n", summary.recipe);
  text += fmt::format("backend  {}, {:.4g} s\ntensors\n", summary.backend, summary.seconds);
  for (const auto& [name, place] : summary.request->used)
    text += fmt::format("  {:<13} {}\n", name, place.text());
  text += fmt::format(
      "out      {}, largest magnitude {:.6g}{}\n", summary.out, summary.out_amax,
      summary.out_nonfinite == 0 ? "" : fmt::format(", {} not finite", summary.out_nonfinite));
  for (const std::string& file : summary.files) text += fmt::format("written  {}\n", file);
  for (const NamedComparison& c : summary.comparisons) {
    text += fmt::format("\n{} against {}\n", c.name, c.reference);
    if (!c.figures.first_mismatch) {
      text += "  identical\n";
      continue;
    }
    text += fmt::format("  SQNR            {:.2f} dB\n", c.figures.sqnr_db);
    text += fmt::format("  largest error   {:.6g}, at {}\n", c.figures.max_abs_error,
                        place_text(c.figures.worst, c.shape, c.worst));
    text += fmt::format("  first mismatch  {}\n",
                        place_text(*c.figures.first_mismatch, c.shape, c.first));
    if (c.figures.nonfinite_mismatches > 0)
      text += fmt::format("  not finite in one of the two: {}\n", c.figures.nonfinite_mismatches);
  }
  return text;
}

std::string to_json(const RunSummary& summary) {
  Json inputs = Json::object();
  for (const auto& [name, place] : summary.request->used) inputs[name] = place.text();
  Json comparisons = Json::array();
  for (const NamedComparison& c : summary.comparisons) {
    Json entry = {{"name", c.name},
                  {"reference", c.reference},
                  {"identical", !c.figures.first_mismatch.has_value()},
                  {"sqnr_db", finite(c.figures.sqnr_db)},
                  {"max_abs_error", c.figures.max_abs_error},
                  {"nonfinite_mismatches", c.figures.nonfinite_mismatches},
                  {"first_mismatch", nullptr}};
    if (c.figures.first_mismatch)
      entry["first_mismatch"] = {{"index", index_of(*c.figures.first_mismatch, c.shape)},
                                 {"value", finite(c.first.first)},
                                 {"expected", finite(c.first.second)}};
    comparisons.push_back(std::move(entry));
  }
  Json json = {{"request", summary.explanation.request},
               {"backend", summary.backend},
               {"recipe", summary.recipe.empty() ? Json(nullptr) : Json(summary.recipe)},
               {"inputs", std::move(inputs)},
               {"seconds", summary.seconds},
               {"out", summary.out},
               {"out_amax", summary.out_amax},
               {"out_nonfinite", summary.out_nonfinite},
               {"files", summary.files},
               {"comparisons", std::move(comparisons)}};
  if (summary.explain) {
    Json answers = Json::array();
    for (const BackendAnswer& answer : summary.explanation.answers)
      answers.push_back({{"backend", answer.backend},
                         {"priority", answer.priority},
                         {"chosen", answer.chosen},
                         {"reasons", answer.reasons}});
    json["explain"] = std::move(answers);
  }
  // Names from files and folders may be no UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sotto::cli

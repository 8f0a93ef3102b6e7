#include "eval/output.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "text_table.h"

namespace sotto::cli {
namespace {

using models::ModeResult;
using Json = nlohmann::ordered_json;

std::string number(double value, int decimals) {
  return std::isnan(value) ? "-" : fmt::format("{:.{}f}", value, decimals);
}

}  // namespace

LayerSqnr layer_sqnr(const ModeResult& mode) {
  LayerSqnr out;
  double sum = 0;
  int count = 0;
  for (const double sqnr : mode.layer_sqnr_db) {
    if (std::isnan(sqnr)) continue;
    out.worst = count == 0 ? sqnr : std::min(out.worst, sqnr);
    sum += sqnr;
    ++count;
  }
  if (count > 0) out.mean = sum / count;
  return out;
}

Cells cells(const ModeResult& mode) {
  const LayerSqnr sqnr = layer_sqnr(mode);
  const bool same = mode.kl == 0;  // exact itself
  return {.mode = mode.mode,
          .perplexity = number(mode.perplexity, 4),
          .change = same ? "-"
                         : fmt::format("{:+.3f} ± {}", 100 * mode.perplexity_change,
                                       number(100 * mode.perplexity_change_error, 3)),
          .kl = same ? "-" : number(mode.kl, 6),
          .top1 = same ? "-" : number(100 * mode.top1, 2),
          .sqnr_worst = number(sqnr.worst, 1),
          .sqnr_mean = number(sqnr.mean, 1),
          .attention_seconds = number(mode.attention_seconds, 2),
          .seconds = number(mode.seconds, 2)};
}

std::string to_table(const EvalSummary& summary) {
  const auto& results = summary.result.results;
  std::vector<std::vector<std::string>> rows = {
      {"", "perplexity", "change %", "KL", "top-1 %", "SQNR dB", "SQNR dB", "attention", "all"},
      {"mode", "", "against exact", "nats", "as exact", "worst", "mean", "s", "s"}};
  for (const ModeResult& mode : results) {
    const Cells c = cells(mode);
    rows.push_back({c.mode, c.perplexity, c.change, c.kl, c.top1, c.sqnr_worst, c.sqnr_mean,
                    c.attention_seconds, c.seconds});
  }
  std::string text =
      fmt::format("model    {} ({})\ntext     {}, {} tokens: {} window{} of {}\nbackend  {}\n\n",
                  summary.model, summary.model_name, summary.text, summary.text_tokens,
                  summary.result.windows, summary.result.windows == 1 ? "" : "s",
                  summary.result.evaluated_tokens / summary.result.windows, results[0].backend);
  text += format_table(rows, 1);
  text +=
      "\nchange: of the perplexity, ± its standard error from paired predictions; KL(exact || "
      "mode)\n"
      "and top-1 over all positions; SQNR: of attention's output per layer, worst and mean layer;\n"
      "seconds: forward passes over all windows, and attention's part of them.\n";
  return text;
}

std::string to_json(const EvalSummary& summary) {
  Json results = Json::array();
  for (const ModeResult& mode : summary.result.results) {
    Json layers = Json::array();
    for (std::size_t i = 0; i < mode.layer_sqnr_db.size(); ++i)
      layers.push_back({{"layer", i}, {"sqnr_db", mode.layer_sqnr_db[i]}});
    const LayerSqnr sqnr = layer_sqnr(mode);
    results.push_back({{"mode", mode.mode},
                       {"backend", mode.backend},
                       {"perplexity", mode.perplexity},
                       {"perplexity_change", mode.perplexity_change},
                       {"perplexity_change_error", mode.perplexity_change_error},
                       {"window_perplexity", mode.window_perplexity},
                       {"kl", mode.kl},
                       {"top1", mode.top1},
                       {"worst_sqnr_db", sqnr.worst},
                       {"mean_sqnr_db", sqnr.mean},
                       {"seconds", mode.seconds},
                       {"window_seconds", mode.window_seconds},
                       {"attention_seconds", mode.attention_seconds},
                       {"layers", std::move(layers)}});
  }
  const Json json = {{"model", summary.model},
                     {"model_name", summary.model_name},
                     {"text", summary.text},
                     {"tokens", summary.text_tokens},
                     {"context", summary.context},
                     {"windows", summary.result.windows},
                     {"evaluated_tokens", summary.result.evaluated_tokens},
                     {"results", std::move(results)}};
  // Names from files may be no UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sotto::cli

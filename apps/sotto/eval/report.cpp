// The page that `sotto eval --report` writes: HTML with SVG inside, no script, nothing from
// outside.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "eval/output.h"
#include "svg.h"

namespace sotto::cli {
namespace {

using models::ModeResult;

constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sotto eval</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
         font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.table { overflow-x: auto; }
svg { width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: #222; }
.note { color: #555; font-size: .9rem; }
</style>
</head>
<body>
)";

// One line per mode over the layers.
std::string layer_lines(const std::vector<ModeResult>& modes) {
  constexpr double kWidth = 860, kLeft = 60, kRight = 230, kTop = 10, kBottom = 340;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const ModeResult& mode : modes)
    for (const double sqnr : mode.layer_sqnr_db) {
      if (std::isnan(sqnr)) continue;
      low = std::min(low, sqnr);
      high = std::max(high, sqnr);
    }
  if (low > high) return "<p>No mode's attention differs from exact.</p>\n";
  constexpr double kTick = 5;  // dB
  low = kTick * std::floor(low / kTick);
  high = std::max(low + kTick, kTick * std::ceil(high / kTick));
  const std::size_t layers = modes[0].layer_sqnr_db.size();
  const double steps = std::max<double>(1, static_cast<double>(layers) - 1);
  const auto x = [&](std::size_t layer) {
    return kLeft + (kWidth - kLeft - kRight) * static_cast<double>(layer) / steps;
  };
  const auto y = [&](double db) { return kBottom - (kBottom - kTop) * (db - low) / (high - low); };

  std::string body;
  const double spacing = kTick * std::max(1.0, std::ceil((high - low) / kTick / 10));
  for (double db = low; db <= high; db += spacing) {
    body += line(kLeft, y(db), kWidth - kRight, y(db), "#ddd");
    body += label(kLeft - 8, y(db) + 4, "end", fmt::format("{:.0f}", db));
  }
  const std::size_t stride = (layers + 15) / 16;
  for (std::size_t layer = 0; layer < layers; layer += stride)
    body += label(x(layer), kBottom + 20, "middle", fmt::format("{}", layer));
  body += label((kLeft + kWidth - kRight) / 2, kBottom + 45, "middle", "layer");
  body += fmt::format(
      "<text transform=\"translate(16 {:.1f}) rotate(-90)\" text-anchor=\"middle\">SQNR of "
      "attention's output, dB (more is better)</text>\n",
      (kTop + kBottom) / 2);

  double legend = kTop + 10;
  for (std::size_t m = 0; m < modes.size(); ++m) {
    std::string path, dots;
    bool drawing = false;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const double sqnr = modes[m].layer_sqnr_db[layer];
      if (std::isnan(sqnr)) {  // a gap
        drawing = false;
        continue;
      }
      path += fmt::format("{}{:.1f} {:.1f}", drawing ? "L" : "M", x(layer), y(sqnr));
      dots += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>{}, layer {}: {:.1f} "
          "dB</title></circle>\n",
          x(layer), y(sqnr), color(m), escape(modes[m].mode), layer, sqnr);
      drawing = true;
    }
    if (path.empty()) continue;
    body += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n{}",
                        path, color(m), dots);
    body += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"14\" height=\"4\" fill=\"{}\"/>\n",
                        kWidth - kRight + 20, legend - 6, color(m));
    body += label(kWidth - kRight + 42, legend, "start", modes[m].mode);
    legend += 22;
  }
  return inline_svg({kWidth, std::max(kBottom + 55, legend), "SQNR by layer", body});
}

std::string table(const std::vector<ModeResult>& modes) {
  std::string rows =
      "<div class=\"table\"><table>\n<tr><th>mode</th><th>perplexity</th><th>change, %</th>"
      "<th>KL, nats</th><th>top-1, %</th><th>worst SQNR, dB</th><th>mean SQNR, dB</th>"
      "<th>attention, s</th><th>all, s</th></tr>\n";
  for (const ModeResult& mode : modes) {
    const Cells c = cells(mode);
    rows += "<tr>";
    for (const std::string& cell : {c.mode, c.perplexity, c.change, c.kl, c.top1, c.sqnr_worst,
                                    c.sqnr_mean, c.attention_seconds, c.seconds})
      rows += "<td>" + escape(cell) + "</td>";
    rows += "</tr>\n";
  }
  return rows + "</table></div>\n";
}

}  // namespace

std::string to_html(const EvalSummary& summary) {
  const auto& modes = summary.result.results;
  std::vector<Bar> kl, disagreement;
  for (std::size_t i = 0; i < modes.size(); ++i) {
    const Cells c = cells(modes[i]);
    if (modes[i].kl > 0) kl.push_back({modes[i].mode, c.kl, modes[i].kl, color(i)});
    const double differs = 100 * (1 - modes[i].top1);
    if (differs > 0)
      disagreement.push_back({modes[i].mode, fmt::format("{:.2f} %", differs), differs, color(i)});
  }

  std::string page = kHead;
  page += fmt::format(
      "<h1>What low-precision attention costs {}</h1>\n"
      "<p>{} window{} of {} tokens of {}, run by backend {}.</p>\n",
      escape(summary.model), summary.result.windows, summary.result.windows == 1 ? "" : "s",
      summary.result.evaluated_tokens / summary.result.windows, escape(summary.text),
      escape(modes[0].backend));
  page += table(modes);
  page +=
      "<p class=\"note\">Everything is compared with exact attention on the same windows. Change: "
      "of "
      "the perplexity, ± its standard error from paired predictions. Top-1: positions where the "
      "same "
      "token ranks first. SQNR: of attention's output, layer by layer, on the exact run's Q, K and "
      "V.</p>\n";
  page += "<h2>Quality by recipe</h2>\n";
  if (kl.empty())
    page += "<p>No mode's output differs from exact.</p>\n";
  else
    page += inline_svg(
        bar_chart(kl, log_axis(kl), "KL divergence from exact, nats per token (less is better)"));
  if (!disagreement.empty())
    page +=
        inline_svg(bar_chart(disagreement, log_axis(disagreement),
                             "Top-1 token differs from exact, % of positions (less is better)"));
  page += "<h2>Attention by layer</h2>\n" + layer_lines(modes);
  return page + "</body>\n</html>\n";
}

}  // namespace sotto::cli

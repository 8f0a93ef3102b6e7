// The picture that `sotto bench --plot` draws: what each case reached, under the machine's roofs.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "bench/report.h"
#include "svg.h"

namespace sotto::cli {
namespace {

Picture chart(std::vector<Bar> bars, std::vector<Marker> roofs, const std::string& title) {
  double most = 0;
  for (const Bar& bar : bars) most = std::max(most, bar.value);
  for (const Marker& roof : roofs) most = std::max(most, roof.value);
  return bar_chart(bars, linear_axis(most), title, roofs);
}

std::vector<Marker> matrix_markers(const Roofs& roofs) {
  std::vector<Marker> markers = {{"matrix product f32", roofs.matrix_f32},
                                 {"bf16", roofs.matrix_bf16},
                                 {"INT8", roofs.matrix_i8}};
  if (roofs.matrix_f8 > 0) markers.push_back({"FP8", roofs.matrix_f8});
  return markers;
}

// A colour for each operation with each recipe.
const char* color_of(const BenchResult& result, std::map<std::string, std::size_t>& series) {
  const std::string name = fmt::format("{} {} {}", op_name(result.bench.op), result.bench.recipe,
                                       result.bench.dtypes.text);
  return color(series.emplace(name, series.size()).first->second);
}

}  // namespace

std::string to_svg(const BenchReport& report) {
  const std::vector<std::string> names = short_names(report.results);
  std::map<std::string, std::size_t> series;
  std::vector<Bar> products, memory;
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const BenchResult& result = report.results[i];
    if (!result.refused.empty()) continue;
    const char* paint = color_of(result, series);
    const bool by_memory =
        result.work.flops() == 0 ||
        (report.roofs &&
         std::string_view(bound_of(result.bench, result.work, *report.roofs).by) == "memory");
    if (by_memory)
      memory.push_back({names[i], fmt::format("{:.1f}", result.gbps()), result.gbps(), paint});
    else
      products.push_back(
          {names[i], fmt::format("{:.0f}", result.gflops()), result.gflops(), paint});
  }
  std::vector<Picture> pictures;
  const auto& roofs = report.roofs;
  if (!products.empty())
    pictures.push_back(chart(std::move(products),
                             roofs ? matrix_markers(*roofs) : std::vector<Marker>{},
                             "GFLOP/s (more is better)"));
  if (!memory.empty())
    pictures.push_back(chart(
        std::move(memory),
        roofs ? std::vector<Marker>{{"memory read", roofs->read}, {"memory copy", roofs->copy}}
              : std::vector<Marker>{},
        "GB/s (more is better)"));
  return svg_file(fmt::format("sotto bench on {}", machine_text(report)), pictures);
}

}  // namespace sotto::cli

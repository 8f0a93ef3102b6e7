#include "bench/report.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "machine.h"
#include "models/file_error.h"
#include "models/json.h"
#include "models/mapped_file.h"
#include "sotto/version.h"
#include "text_table.h"

namespace sotto::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMebi = 1 << 20;

// Of the parts that describe() gives: those in which the results differ.
std::vector<bool> varying_parts(const std::vector<BenchResult>& results) {
  const auto first = describe(results[0].bench);
  std::vector<bool> varying(first.size(), false);
  for (const BenchResult& result : results) {
    const auto parts = describe(result.bench);
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (parts[i].second != first[i].second) varying[i] = true;
  }
  return varying;
}

std::optional<double> fraction_of_roof(const BenchResult& result, const BenchReport& report) {
  if (!report.roofs || !result.refused.empty()) return std::nullopt;
  return bound_of(result.bench, result.work, *report.roofs).seconds / result.measured.median();
}

// Earlier median / this one: above 1, faster now.
std::optional<double> speedup(const BenchResult& result, const std::optional<Earlier>& earlier) {
  if (!earlier || !result.refused.empty()) return std::nullopt;
  const auto found = earlier->seconds.find(key_of(result.bench));
  if (found == earlier->seconds.end()) return std::nullopt;
  return found->second / result.measured.median();
}

// Keys that only one of the two has.
struct Unmatched {
  std::vector<std::string> here, there;
};

Unmatched unmatched(const BenchReport& report, const Earlier& earlier) {
  Unmatched keys;
  std::set<std::string> measured;
  for (const BenchResult& result : report.results) {
    if (!result.refused.empty()) continue;
    const std::string key = key_of(result.bench);
    measured.insert(key);
    if (!earlier.seconds.contains(key)) keys.here.push_back(key);
  }
  for (const auto& [key, seconds] : earlier.seconds)
    if (!measured.contains(key)) keys.there.push_back(key);
  return keys;
}

std::string number(const std::optional<double>& value, int decimals, const char* unit = "") {
  return value ? fmt::format("{:.{}f}{}", *value, decimals, unit) : "-";
}

std::string header(const BenchReport& report) {
  std::string text = fmt::format("machine  {}\n", machine_text(report));
  if (const auto& roofs = report.roofs)
    text += fmt::format(
        "roofs    {}matrix f32 {:.0f}, bf16 {:.0f}, INT8 {:.0f}{} GFLOP/s; read {:.1f}, copy "
        "{:.1f} GB/s\n",
        roofs->nominal ? "nominal " : "", roofs->matrix_f32, roofs->matrix_bf16, roofs->matrix_i8,
        roofs->matrix_f8 > 0 ? fmt::format(", FP8 {:.0f}", roofs->matrix_f8) : "", roofs->read,
        roofs->copy);
  std::set<std::string> backends;
  for (const BenchResult& result : report.results)
    if (!result.backend.empty()) backends.insert(result.backend);
  text += fmt::format("backend  {}\n", fmt::join(backends, ", "));
  const auto parts = describe(report.results[0].bench);
  const auto varying = varying_parts(report.results);
  std::vector<std::string> fixed;
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (!varying[i]) fixed.push_back(fmt::format("{} {}", parts[i].first, parts[i].second));
  if (!fixed.empty()) text += fmt::format("all      {}\n", fmt::join(fixed, ", "));
  return text + "\n";
}

Json roofs_json(const Roofs& roofs) {
  return {{"matrix_f32_gflops", roofs.matrix_f32},
          {"matrix_bf16_gflops", roofs.matrix_bf16},
          {"matrix_i8_gops", roofs.matrix_i8},
          {"matrix_f8_gflops", roofs.matrix_f8},
          {"matrix_nominal", roofs.nominal},
          {"read_gbps", roofs.read},
          {"copy_gbps", roofs.copy}};
}

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json result_json(const BenchResult& result, const BenchReport& report,
                 const std::optional<Earlier>& earlier) {
  const BenchCase& bench = result.bench;
  Json json = {
      {"key", key_of(bench)},
      {"op", op_name(bench.op)},
      {"recipe", bench.recipe.empty() ? Json(nullptr) : Json(bench.recipe)},
      {"dtype", bench.dtypes.text},
      {"dtype_out", dtype_name(bench.dtypes.out)},
      {"batch", bench.batch},
      {"len_q", bench.len_q},
      {"len_k", bench.len_k},
      {"heads_q", bench.heads_q},
      {"heads_kv", bench.heads_kv},
      {"dim_qk", bench.dim_qk},
      {"dim_v", bench.dim_v},
      {"mask", bench.mask.text},
      {"softcap", bench.softcap},
      {"layout", layout_name(bench.layout)},
      {"page_size", bench.layout == KvLayout::paged ? Json(bench.page_size) : Json(nullptr)}};
  if (!result.refused.empty()) {
    json["refused"] = result.refused;
    return json;
  }
  json["backend"] = result.backend;
  json["median_seconds"] = result.measured.median();
  json["spread"] = result.measured.spread();
  json["seconds"] = result.measured.seconds;
  json["flops"] = result.work.flops();
  json["bytes"] = result.work.bytes;
  json["gflops"] = result.gflops();
  json["gbps"] = result.gbps();
  json["roof_fraction"] = or_null(fraction_of_roof(result, report));
  json["bound"] =
      report.roofs ? Json(bound_of(bench, result.work, *report.roofs).by) : Json(nullptr);
  json["workspace_bytes"] = result.workspace_bytes;
  json["extra_bytes"] = or_null(result.extra_bytes);
  if (earlier) json["speedup"] = or_null(speedup(result, earlier));
  return json;
}

}  // namespace

std::vector<std::string> short_names(const std::vector<BenchResult>& results) {
  const auto varying = varying_parts(results);
  const bool all = std::none_of(varying.begin(), varying.end(), [](bool v) { return v; });
  std::vector<std::string> names;
  for (const BenchResult& result : results) {
    const auto parts = describe(result.bench);
    std::vector<std::string> words;
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (all || varying[i]) words.push_back(parts[i].second);
    names.push_back(fmt::format("{}", fmt::join(words, " ")));
  }
  return names;
}

std::string machine_text(const BenchReport& report) {
  return report.gpu.empty() ? fmt::format("{}, {} threads", cpu_model(), report.threads)
                            : report.gpu;
}

std::string to_table(const BenchReport& report, const std::optional<Earlier>& earlier) {
  const auto varying = varying_parts(report.results);
  const auto parts = describe(report.results[0].bench);
  std::vector<std::vector<std::string>> rows(1);
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (varying[i]) rows[0].push_back(parts[i].first);
  const std::size_t left = rows[0].size();
  for (const char* name : {"ms", "spread", "GFLOP/s", "GB/s", "of roof", "bound", "extra MiB"})
    rows[0].emplace_back(name);
  if (earlier) rows[0].emplace_back("speedup");

  std::string refused;
  const std::vector<std::string> names = short_names(report.results);
  std::vector<double> speedups;
  for (std::size_t r = 0; r < report.results.size(); ++r) {
    const BenchResult& result = report.results[r];
    if (!result.refused.empty()) {
      refused += fmt::format("refused  {}: {}\n", names[r], result.refused);
      continue;
    }
    const auto values = describe(result.bench);
    auto& row = rows.emplace_back();
    for (std::size_t i = 0; i < values.size(); ++i)
      if (varying[i]) row.push_back(values[i].second);
    row.push_back(fmt::format("{:.4f}", 1e3 * result.measured.median()));
    row.push_back(fmt::format("{:.1f} %", 100 * result.measured.spread()));
    row.push_back(result.work.flops() > 0 ? fmt::format("{:.1f}", result.gflops()) : "-");
    row.push_back(fmt::format("{:.2f}", result.gbps()));
    const auto fraction = fraction_of_roof(result, report);
    row.push_back(fraction ? fmt::format("{:.1f} %", 100 * *fraction) : "-");
    row.push_back(report.roofs ? bound_of(result.bench, result.work, *report.roofs).by : "-");
    row.push_back(result.extra_bytes ? fmt::format("{:.1f}", *result.extra_bytes / kMebi) : "-");
    if (!earlier) continue;
    const auto ratio = speedup(result, earlier);
    if (ratio) speedups.push_back(*ratio);
    row.push_back(number(ratio, 2, "x"));
  }
  std::string text = header(report) + format_table(rows, left);
  if (!refused.empty()) text += "\n" + refused;
  if (earlier) {
    double logs = 0;
    for (const double ratio : speedups) logs += std::log(ratio);
    if (!speedups.empty())
      text += fmt::format(
          "\nagainst {}: {:.2f}x in the geometric mean of {} entries (above 1: faster now)\n",
          earlier->file, std::exp(logs / static_cast<double>(speedups.size())), speedups.size());
    const Unmatched keys = unmatched(report, *earlier);
    for (const std::string& key : keys.here) text += fmt::format("only here   {}\n", key);
    for (const std::string& key : keys.there) text += fmt::format("only there  {}\n", key);
  }
  return text;
}

std::string to_json(const BenchReport& report, const std::optional<Earlier>& earlier) {
  Json results = Json::array();
  for (const BenchResult& result : report.results)
    results.push_back(result_json(result, report, earlier));
  Json json = {{"sotto", version()},
               {"machine",
                {{"cpu", cpu_model()},
                 {"simd", simd_targets()},
                 {"threads", report.threads},
                 {"gpu", report.gpu.empty() ? Json(nullptr) : Json(report.gpu)}}},
               {"roofs", report.roofs ? roofs_json(*report.roofs) : Json(nullptr)},
               {"results", std::move(results)}};
  if (earlier) {
    const Unmatched keys = unmatched(report, *earlier);
    json["against"] = {
        {"file", earlier->file}, {"only_here", keys.here}, {"only_there", keys.there}};
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Earlier read_earlier(const std::string& path) {
  const models::MappedFile file(path);
  const nlohmann::json document = models::parse_json(file.name(), "JSON", file.text());
  const models::JsonView results = models::JsonView(document, file.name(), "").at("results");
  Earlier earlier{.file = path, .seconds = {}};
  for (std::size_t i = 0; i < results.array().size(); ++i) {
    const models::JsonView entry = results.element(i);
    const models::JsonView key = entry.at("key");
    if (entry.find("refused")) continue;
    const models::JsonView median = entry.at("median_seconds");
    if (!(median.number() > 0)) median.fail("must be above 0");
    if (!earlier.seconds.emplace(key.text(), median.number()).second)
      key.fail("is there twice: " + models::excerpt(key.text()));
  }
  return earlier;
}

}  // namespace sotto::cli

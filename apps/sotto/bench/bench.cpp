// `sotto bench`: how fast attention and what surrounds it run, and how near to what the machine
// can do.
#include <omp.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/gpu.h"
#include "bench/measure.h"
#include "bench/options.h"
#include "bench/report.h"
#include "command.h"
#include "output_file.h"
#include "progress.h"
#include "sotto/error.h"

namespace sotto::cli {
namespace {

BenchResult run_case(const BenchCase& bench, const BenchOptions& options) {
  BenchResult result;
  result.bench = bench;
  try {
    const BenchCall call = make_call(bench, options.backend);
    result.backend = call.backend;
    result.work = call.work;
    result.workspace_bytes = call.workspace_bytes;
    MeasureOptions measuring{.warmup = options.warmup, .repeats = options.repeats};
    if (options.max_seconds) measuring.max_seconds = *options.max_seconds;
    result.measured = bench.device.type == DeviceType::cuda ? measure_on_gpu(call.run, measuring)
                                                            : measure(call.run, measuring);
    if (const auto peak = result.measured.peak_bytes)
      result.extra_bytes = std::max(0.0, *peak - call.quantized_bytes);
  } catch (const Error& error) {  // what one case may not, the next one may
    result.refused = error.what();
  }
  return result;
}

void run(const BenchOptions& options) {
  use_threads(options.threads);
  const std::vector<BenchCase> cases = bench_cases(options);
  const bool on_gpu = options.device.type == DeviceType::cuda;
  const std::optional<Gpu> gpu = on_gpu ? std::optional(check_gpu(options.device)) : std::nullopt;
  for (const BenchCase& bench : cases) check_memory(bench, gpu ? gpu->memory : machine_memory());
  if (gpu) use_gpu(options.device);
  std::optional<Earlier> earlier;
  if (!options.against.empty()) earlier = read_earlier(options.against);

  BenchReport report{
      .gpu = gpu ? gpu->name : "", .threads = omp_get_max_threads(), .roofs = {}, .results = {}};
  {
    Progress progress("measuring");
    if (!options.no_roofs) report.roofs = gpu ? gpu_roofs(options.device) : measure_roofs();
    for (const BenchCase& bench : cases) {
      report.results.push_back(run_case(bench, options));
      progress.show(static_cast<std::int64_t>(report.results.size()),
                    static_cast<std::int64_t>(cases.size()));
    }
  }
  if (std::all_of(report.results.begin(), report.results.end(),
                  [](const BenchResult& result) { return !result.refused.empty(); })) {
    const BenchResult& first = report.results[0];
    throw Error(fmt::format("{}: {}", key_of(first.bench), first.refused));
  }
  fmt::print("{}", options.json.to_stdout ? to_json(report, earlier) : to_table(report, earlier));
  if (!options.json.file.empty()) write_file(options.json.file, to_json(report, earlier));
  if (!options.plot.empty()) write_file(options.plot, to_svg(report));
}

}  // namespace

Command add_bench(CLI::App& app) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* bench =
      app.add_subcommand("bench", "Measure speed against what this machine can do at best");
  add_bench_options(*bench, *options);
  return {bench, [options] { run(*options); }};
}

}  // namespace sotto::cli

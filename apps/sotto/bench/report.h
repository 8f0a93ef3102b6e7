// What `sotto bench` found, as a table, as JSON, as a picture, and beside an earlier result.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bench/case.h"
#include "bench/data.h"
#include "bench/measure.h"
#include "bench/roofs.h"

namespace sotto::cli {

struct BenchResult {
  BenchCase bench;
  std::string refused;  // why not: the library's words; empty where it was measured
  std::string backend;
  Work work;
  std::size_t workspace_bytes = 0;
  Measurement measured;
  std::optional<double> extra_bytes;  // memory beside inputs, outputs and quantised copies

  double gflops() const { return 1e-9 * work.flops() / measured.median(); }
  double gbps() const { return 1e-9 * work.bytes / measured.median(); }
};

struct BenchReport {
  std::string gpu;  // its name; empty: the CPU was measured
  int threads = 0;
  std::optional<Roofs> roofs;
  std::vector<BenchResult> results;
};

// An earlier result: median seconds by key_of(). Throws models::FileError.
struct Earlier {
  std::string file;
  std::map<std::string, double> seconds;
};
Earlier read_earlier(const std::string& file);

// "AMD EPYC …, 8 threads", or the GPU.
std::string machine_text(const BenchReport& report);
std::string to_table(const BenchReport& report, const std::optional<Earlier>& earlier);
std::string to_json(const BenchReport& report, const std::optional<Earlier>& earlier);
std::string to_svg(const BenchReport& report);

// The parts of describe() in which the results differ, in one line; of one alone, all.
std::vector<std::string> short_names(const std::vector<BenchResult>& results);

}  // namespace sotto::cli

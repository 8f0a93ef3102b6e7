// The options of `sotto bench`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "bench/case.h"
#include "option_values.h"

namespace sotto::cli {

struct BenchOptions {
  std::vector<BenchOp> ops = {BenchOp::attention, BenchOp::sdpa};
  std::vector<std::string> recipes = {"exact", "fp8", "int8qk"};
  std::vector<BenchDtypes> dtypes = {{"bf16", Dtype::bf16, Dtype::bf16, Dtype::bf16, {}}};
  std::optional<Dtype> dtype_out;
  std::int64_t batch = 1;
  std::vector<std::int64_t> len = {1024, 4096};  // of queries and keys,
  std::vector<std::int64_t> len_q, len_k;        // or of each
  std::int64_t heads_q = 8, heads_kv = 0;        // 0: as heads_q
  std::vector<std::int64_t> dim_qk = {64};
  std::int64_t dim_v = 0;  // 0: as dim_qk
  std::vector<BenchMask> masks = {{"none"}};
  std::optional<double> softcap;
  bool varlen = false, cache = false, decode = false;
  std::int64_t page_size = 0;

  Device device;
  std::string backend;
  std::int64_t threads = 0, warmup = 1, repeats = 10;
  std::optional<double> max_seconds;
  bool no_roofs = false;
  JsonOption json;
  std::string against, plot;
};

void add_bench_options(CLI::App& app, BenchOptions& options);

// Everything that the lists make together. Throws UsageError for what cannot be, Error where an
// output file could not be written.
std::vector<BenchCase> bench_cases(const BenchOptions& options);

}  // namespace sotto::cli

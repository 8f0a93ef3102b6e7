// From a case and its data to a request: quantises, lays out, runs, and reads the results back.
#pragma once

#include <string>
#include <vector>

#include "data.h"
#include "placing.h"

namespace sotto::test {

// A request without its outputs. Not copied: the tensors point into its arena.
struct Request {
  Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  Arena arena;
  Placing q, kv;
  AttentionArgs args;
  SdpaOptions options;
};

// Quantised operands come from sotto::quantize() on the reference backend.
void make_request(const AttentionCase& c, const Data& data, Request& request);

// What a run wrote, as numbers, sequence by sequence: o [rows_q, heads_q, dim_v] (dequantised),
// lse [heads_q, rows_q]; rows_q counts padding, too.
struct Rows {
  std::vector<double> o, lse;
};

struct Result {
  std::vector<Rows> sequences;
  std::vector<std::string> faults;  // rules of the output format that are broken
};

// Where the output kind is quantised, `amax` is what its scale is made for. The workspace's bytes
// are `garbage` at first; 0xff is NaN in every format.
Result run(const AttentionCase& c, const Request& request, const std::string& backend, double amax,
           int garbage = 0xff);
// The same with a plain fp32 output.
Result run_plain(const AttentionCase& c, const Request& request, const std::string& backend,
                 int garbage = 0xff);

// What every backend would say to it.
Explanation explain_case(const AttentionCase& c, const Request& request,
                         const std::string& backend);

// Queries of sequence b that have a row in `out`.
std::int64_t rows_q(const AttentionCase& c, std::size_t b);

}  // namespace sotto::test

// Every backend runs every case of the table that its rules accept.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "cases.h"
#include "harness.h"
#include "judge.h"

namespace sotto::test {
namespace {

// A case with all that does not depend on the backend.
struct Prepared {
  explicit Prepared(const std::string& line) : c(line), data(make_data(c)) {
    make_request(c, data, request);
    for (std::size_t b = 0; b < data.sequences.size(); ++b) {
      truth.push_back(true_attention(c, data, b));
      for (double x : truth.back().o) amax = std::max(amax, std::fabs(x));
    }
    oracle = run_plain(c, request, "reference");
  }

  AttentionCase c;
  Data data;
  Request request;
  std::vector<Exact> truth;
  Result oracle;
  double amax = 0;  // of the true output
};

// The tests of a case follow one another, a backend each: the last one is kept.
const Prepared& prepare(const std::string& line) {
  static std::unique_ptr<const Prepared> last;
  if (last == nullptr || last->c.line != line) {
    last.reset();
    last = std::make_unique<const Prepared>(line);
  }
  return *last;
}

void test_case(const std::string& line, const std::string& backend) {
  const Prepared& p = prepare(line);
  if (!accepts(backend, line, explain_case(p.c, p.request, backend))) return;
  const Verdict verdict =
      judge(p.c, p.truth, p.oracle, p.amax, run(p.c, p.request, backend, p.amax));
  testing::Test::RecordProperty("arithmetic_db", fmt::format("{:.2f}", verdict.arithmetic_db));
  testing::Test::RecordProperty("truth_db", fmt::format("{:.2f}", verdict.truth_db));
  if (std::getenv("SOTTO_TEST_VERBOSE") != nullptr) {
    fmt::print("{:<10} {:7.2f} {:7.2f}  {}\n", backend, verdict.arithmetic_db, verdict.truth_db,
               line);
  }
  for (const std::string& fault : verdict.faults) ADD_FAILURE() << fault;
}

}  // namespace

void register_attention_cases(const std::vector<std::string>& random_lines) {
  for (const Family& family : families()) register_family(family.name, family.lines, test_case);
  register_family("Random", {random_lines.begin(), random_lines.end()}, test_case);
}

}  // namespace sotto::test

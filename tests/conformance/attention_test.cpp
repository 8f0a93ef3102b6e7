// Every backend runs every case of the table that its rules accept.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>

#include "cases.h"
#include "harness.h"
#include "judge.h"

namespace sotto::test {
namespace {

// What a case should give.
struct Expected {
  Expected(const AttentionCase& c, const Data& data, const Request& request)
      : oracle(run_plain(c, request, "reference")) {
    for (std::size_t b = 0; b < data.sequences.size(); ++b) {
      truth.push_back(true_attention(c, data, b));
      for (double x : truth.back().o) amax = std::max(amax, std::fabs(x));
    }
  }

  std::vector<Exact> truth;
  Result oracle;
  double amax = 0;  // of the true output
};

// A case with all that does not depend on the backend.
struct Prepared {
  explicit Prepared(const std::string& line) : c(line), data(make_data(c)) {
    make_request(c, data, request);
  }

  AttentionCase c;
  Data data;
  Request request;
  std::optional<Expected> expected;  // from the first backend on that takes the case
};

// The tests of a case follow one another, a backend each: the last one is kept.
Prepared& prepare(const std::string& line) {
  static std::unique_ptr<Prepared> last;
  if (last == nullptr || last->c.line != line) {
    last.reset();
    last = std::make_unique<Prepared>(line);
  }
  return *last;
}

void test_case(const std::string& line, const std::string& backend) {
  Prepared& p = prepare(line);
  if (!accepts(backend, line, explain_case(p.c, p.request, backend))) return;
  if (!p.expected) p.expected.emplace(p.c, p.data, p.request);
  const auto& [truth, oracle, amax] = *p.expected;
  const Verdict verdict =
      judge(p.c, backend, truth, oracle, amax, run(p.c, p.request, backend, amax));
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

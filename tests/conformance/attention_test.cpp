// Every backend runs every case of the table that its rules accept.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include "cases.h"
#include "judge.h"
#include "spec.h"

namespace sotto::test {
namespace {

// These take every case. Others may refuse some, which is counted and printed.
const std::set<std::string> kComplete{"cpu", "reference"};

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

// What is printed at the end.
class Summary : public testing::Environment {
 public:
  struct Counts {
    int run = 0, failed = 0;
    std::map<std::string, int> refused;  // by reason
  };
  static std::map<std::string, Counts>& counts() {
    static std::map<std::string, Counts> instance;
    return instance;
  }

  void TearDown() override {
    for (const auto& [backend, c] : counts()) {
      int refused = 0;
      for (const auto& [reason, n] : c.refused) refused += n;
      fmt::print("{:<12} {} cases run, {} failed, {} refused\n", backend, c.run, c.failed, refused);
      for (const auto& [reason, n] : c.refused) fmt::print("{:>16} x {}\n", n, reason);
    }
  }
};

class AttentionConformance : public testing::Test {
 public:
  AttentionConformance(std::string line, std::string backend)
      : line_(std::move(line)), backend_(std::move(backend)) {}

  void TestBody() override {
    Summary::Counts& counts = Summary::counts()[backend_];
    for (const auto& backend : backends::list()) {
      if (backend->name() != backend_) continue;
      if (const Reasons reasons = backend->unusable(); !reasons.empty()) {
        ++counts.refused["no device: " + reasons.front()];
        GTEST_SKIP() << "no device: " << reasons.front();
      }
    }
    const Prepared& p = prepare(line_);
    if (const Reasons reasons = reasons_for_no(p.c, p.request, backend_); !reasons.empty()) {
      ++counts.refused[fmt::format("{}", fmt::join(reasons, "; "))];
      if (kComplete.contains(backend_)) {
        FAIL() << backend_ << " must take every case, but refuses\n  " << line_ << "\n  "
               << reasons.front();
      }
      GTEST_SKIP() << reasons.front();
    }
    ++counts.run;
    const Result result = run(p.c, p.request, backend_, p.amax);
    const Verdict verdict = judge(p.c, p.truth, p.oracle, p.amax, result);
    RecordProperty("arithmetic_db", fmt::format("{:.2f}", verdict.arithmetic_db));
    RecordProperty("truth_db", fmt::format("{:.2f}", verdict.truth_db));
    if (std::getenv("SOTTO_TEST_VERBOSE") != nullptr) {
      fmt::print("{:<10} {:7.2f} {:7.2f}  {}\n", backend_, verdict.arithmetic_db, verdict.truth_db,
                 line_);
    }
    for (const std::string& fault : verdict.faults) {
      ADD_FAILURE() << backend_ << ", case\n  " << line_ << "\n  " << fault;
    }
    counts.failed += verdict.faults.empty() ? 0 : 1;
  }

 private:
  std::string line_, backend_;
};

TEST(Table, HasAtLeast400DifferentCases) {
  std::set<std::string> lines;
  for (const Family& family : families()) {
    for (const std::string& line : expand(family.lines)) lines.insert(line);
  }
  EXPECT_GE(lines.size(), 400u);
}

}  // namespace

void register_attention_tests() {
  testing::AddGlobalTestEnvironment(new Summary);
  for (const Family& family : families()) {
    for (const std::string& line : expand(family.lines)) {
      for (const auto& backend : backends::list()) {
        const std::string name(backend->name());
        testing::RegisterTest(
            family.name, (name + "_" + test_name(line)).c_str(), nullptr, nullptr, __FILE__,
            __LINE__, [=]() -> testing::Test* { return new AttentionConformance(line, name); });
      }
    }
  }
}

}  // namespace sotto::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  sotto::test::register_attention_tests();
  return RUN_ALL_TESTS();
}

#include "harness.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "cases.h"
#include "spec.h"

namespace sotto::test {
namespace {

// These take every case. Others may refuse some.
const std::set<std::string> kComplete{"cpu", "reference"};

struct Counts {
  int run = 0, failed = 0, refused = 0;
  std::map<std::string, int> reasons;
};

std::map<std::string, Counts>& counts() {
  static std::map<std::string, Counts> by_backend;
  return by_backend;
}

class Summary : public testing::Environment {
 public:
  void TearDown() override {
    for (const auto& [backend, c] : counts()) {
      fmt::print("{:<12} {} cases run, {} failed, {} refused\n", backend, c.run, c.failed,
                 c.refused);
      for (const auto& [reason, n] : c.reasons) fmt::print("{:>16} x {}\n", n, reason);
    }
  }
};

class Case : public testing::Test {
 public:
  Case(std::string line, std::string backend, CaseTest test)
      : line_(std::move(line)), backend_(std::move(backend)), test_(test) {}

  void TestBody() override {
    SCOPED_TRACE(backend_ + ", case: " + line_);
    test_(line_, backend_);
    if (IsSkipped()) return;
    ++counts()[backend_].run;
    if (HasFailure()) ++counts()[backend_].failed;
  }

 private:
  std::string line_, backend_;
  CaseTest test_;
};

Reasons reasons_of(const std::string& backend, const Explanation& explanation) {
  for (const BackendAnswer& answer : explanation.answers) {
    if (answer.backend == backend) return answer.reasons;
  }
  return {"is not registered"};
}

bool is_usable(const std::string& name) {
  for (const auto& backend : backends::list()) {
    if (backend->name() == name) return backend->unusable().empty();
  }
  return false;
}

void skip(const std::string& why) { GTEST_SKIP() << why; }

}  // namespace

void register_family(const char* family, const std::vector<std::string_view>& lines,
                     CaseTest test) {
  for (const std::string& line : expand(lines)) {
    for (const auto& backend : backends::list()) {
      const std::string name(backend->name());
      testing::RegisterTest(family, (name + "_" + test_name(line)).c_str(), nullptr, nullptr,
                            __FILE__, __LINE__,
                            [=]() -> testing::Test* { return new Case(line, name, test); });
    }
  }
}

bool accepts(const std::string& backend, const std::string& line, const Explanation& explanation) {
  const Reasons reasons = reasons_of(backend, explanation);
  if (reasons.empty()) return true;
  const bool usable = is_usable(backend);
  const std::string why =
      fmt::format("{}{}", usable ? "" : "no device: ", fmt::join(reasons, "; "));
  ++counts()[backend].refused;
  ++counts()[backend].reasons[why];
  if (usable && kComplete.contains(backend)) {
    ADD_FAILURE() << backend << " must take every case, but refuses " << line << ": " << why;
  } else {
    skip(why);
  }
  return false;
}

void register_attention_cases();
void register_quantize_cases();
void register_append_cases();
void register_merge_cases();

}  // namespace sotto::test

TEST(Table, HasAtLeast400DifferentCases) {
  std::set<std::string> lines;
  for (const auto& family : sotto::test::families()) {
    for (const std::string& line : sotto::test::expand(family.lines)) lines.insert(line);
  }
  EXPECT_GE(lines.size(), 400u);
}

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new sotto::test::Summary);
  sotto::test::register_attention_cases();
  sotto::test::register_quantize_cases();
  sotto::test::register_append_cases();
  sotto::test::register_merge_cases();
  return RUN_ALL_TESTS();
}

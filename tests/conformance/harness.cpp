#include "harness.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>

#include "cases.h"
#include "random_cases.h"
#include "spec.h"

namespace sotto::test {
namespace {

struct Counts {
  std::string skipped;  // why no case runs
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
      if (!c.skipped.empty()) {
        fmt::print("{:<12} skipped: {}\n", backend, c.skipped);
        continue;
      }
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
    if (!HasFailure()) return;
    ++counts()[backend_].failed;
    fmt::print("to run it alone:  sotto_conformance --gtest_filter='*.{}_*' --case '{}'\n",
               backend_, line_);
  }

 private:
  std::string line_, backend_;
  CaseTest test_;
};

void skip(const std::string& why) { GTEST_SKIP() << why; }

// Stands for all cases of a backend that cannot be used on this machine.
void skip_backend(const std::string& why, const std::string& backend) {
  counts()[backend].skipped = why;
  skip(why);
}

void register_case(const char* family, const std::string& name, const std::string& line,
                   const std::string& backend, CaseTest test) {
  testing::RegisterTest(family, name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                        [=]() -> testing::Test* { return new Case(line, backend, test); });
}

}  // namespace

bool is_complete(const std::string& backend) { return backend == "cpu" || backend == "reference"; }

Reasons reasons_of(const std::string& backend, const Explanation& explanation) {
  for (const BackendAnswer& answer : explanation.answers) {
    if (answer.backend == backend) return answer.reasons;
  }
  return {"is not registered"};
}

void register_family(const char* family, const std::vector<std::string_view>& lines,
                     CaseTest test) {
  std::vector<std::string> usable;
  for (const auto& backend : backends::list()) {
    const std::string name(backend->name());
    const Reasons reasons = backend->unusable();
    if (reasons.empty()) {
      usable.push_back(name);
    } else {
      const std::string why = fmt::format("no device: {}", fmt::join(reasons, "; "));
      register_case(family, name, why, name, skip_backend);
    }
  }
  for (const std::string& line : expand(lines)) {
    for (const std::string& name : usable) {
      register_case(family, name + "_" + test_name(line), line, name, test);
    }
  }
}

bool accepts(const std::string& backend, const std::string& line, const Explanation& explanation) {
  const Reasons reasons = reasons_of(backend, explanation);
  if (reasons.empty()) return true;
  const std::string why = fmt::format("{}", fmt::join(reasons, "; "));
  ++counts()[backend].refused;
  ++counts()[backend].reasons[why];
  if (is_complete(backend)) {
    ADD_FAILURE() << backend << " must take every case, but refuses " << line << ": " << why;
  } else {
    skip(why);
  }
  return false;
}

void register_attention_cases(const std::vector<std::string>& random_lines);
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

namespace {

// What is on the command line beside GoogleTest's own options.
struct Options {
  std::int64_t random = 2000;  // cases
  std::uint64_t seed = 1;      // of the first one
  std::string line;            // this case alone
};

constexpr const char* kUsage =
    "Runs the cases of the tables, and random ones, on every backend.\n"
    "  --random N     run N random cases of attention and sdpa, and nothing else\n"
    "  --seed S       of the first; each further one has the next seed (default 1)\n"
    "  --case LINE    run this case of attention or sdpa, and nothing else\n"
    "One backend alone:  --gtest_filter='*.sm90*:*/sm90'\n";

// Chooses the tests, too, where the command line asks for some and has no filter.
Options parse(int argc, char** argv) {
  Options options;
  bool chosen = false;
  try {
    for (int i = 1; i < argc; i += 2) {
      const std::string name = argv[i];
      const std::string value = i + 1 < argc ? argv[i + 1] : throw std::invalid_argument(name);
      if (name == "--random") {
        options.random = std::stoll(value);
      } else if (name == "--seed") {
        options.seed = std::stoull(value);
      } else if (name == "--case") {
        options.line = value;
      } else {
        throw std::invalid_argument(name);
      }
      chosen |= name != "--seed";
    }
  } catch (const std::logic_error&) {
    fmt::print(stderr, "{}", kUsage);
    std::exit(2);
  }
  if (chosen && testing::GTEST_FLAG(filter) == "*") testing::GTEST_FLAG(filter) = "Random.*";
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const Options options = parse(argc, argv);
  testing::AddGlobalTestEnvironment(new sotto::test::Summary);
  sotto::test::register_attention_cases(
      options.line.empty() ? sotto::test::random_cases(options.seed, options.random)
                           : std::vector<std::string>{options.line});
  sotto::test::register_quantize_cases();
  sotto::test::register_append_cases();
  sotto::test::register_merge_cases();
  return RUN_ALL_TESTS();
}

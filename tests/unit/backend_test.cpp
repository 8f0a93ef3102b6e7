// The registry, selection by rules, explain() and the environment switches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "host_tensor.h"
#include "sotto/sotto.h"

namespace sotto {
namespace {

using test::HostTensor;

// A backend of our own, as a user might add one: writes its number everywhere.
class Constant : public Backend {
 public:
  Constant(std::string name, int priority, float number)
      : name_(std::move(name)), priority_(priority), number_(number) {}

  std::string_view name() const override { return name_; }
  std::string_view description() const override { return "writes a constant"; }
  int priority() const override { return priority_; }
  Reasons unusable() const override { return unusable_; }
  Reasons refuse(const Problem& problem) const override {
    Reasons reasons;
    if (problem.softcap > 0) reasons.push_back("has no softcap: divide the scores beforehand");
    if (problem.lse) reasons.push_back("writes no LSE");
    return reasons;
  }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs&, const Problem&) const override {
    return std::make_unique<Kernel>(number_);
  }

  Reasons unusable_;

 private:
  class Kernel : public AttentionKernel {
   public:
    explicit Kernel(float number) : number_(number) {}
    std::size_t workspace_size() const override { return 256; }
    void run(const AttentionArgs& args, Workspace, Stream) const override {
      std::fill_n(static_cast<float*>(args.out.data), args.out.numel(), number_);
    }

   private:
    float number_;
  };

  std::string name_;
  int priority_;
  float number_;
};

class Backends : public testing::Test {
 protected:
  void SetUp() override {
    clean_up();
    // What this build has for GPUs stays out of the way.
    for (const auto& backend : backends::list()) {
      if (backend->name() == "cpu" || backend->name() == "reference") continue;
      for_gpus_.push_back(backend);
      backends::remove(backend->name());
    }
  }
  void TearDown() override {
    clean_up();
    for (const auto& backend : for_gpus_) backends::add(backend);
  }

  void clean_up() {
    backends::restore();
    for (const char* name : {"constant", "other"}) {
      const auto all = names();
      if (std::find(all.begin(), all.end(), name) != all.end()) backends::remove(name);
    }
    for (const char* variable : {"SOTTO_BACKEND", "SOTTO_DISABLE", "SOTTO_LOG"}) unsetenv(variable);
    set_log_callback({});
  }

  static std::vector<std::string> names() {
    std::vector<std::string> names;
    for (const auto& backend : backends::list()) names.emplace_back(backend->name());
    return names;
  }

  std::string chosen() const { return std::string(AttentionPlan(args).backend()); }

  template <class Run>
  static std::string error_of(Run&& run) {
    try {
      run();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  }

  HostTensor q{Dtype::f32, {1, 2, 1, 16}, std::vector<float>(32, 1.0f)}, k = q, v = q, out = q;
  HostTensor lse{Dtype::f32, {1, 1, 2}};
  AttentionArgs args{.q = q, .k = k, .v = v, .out = out};

 private:
  std::vector<std::shared_ptr<const Backend>> for_gpus_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Says yes and makes nothing of it.
class Empty : public Constant {
 public:
  Empty() : Constant("other", 1, 0.0f) {}
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs&, const Problem&) const override {
    return nullptr;
  }
};

TEST_F(Backends, AKernelThatIsNullIsAnError) {
  backends::add(std::make_shared<Empty>());
  args.backend = "other";
  constexpr const char* kText =
      "backend 'other' accepted the request, but its plan() returned null";
  EXPECT_EQ(error_of([&] { attention(args); }), kText);
  EXPECT_EQ(error_of([&] { sdpa(args, {.recipe = Recipe::exact()}); }), kText);
}

TEST_F(Backends, ComeWithTheLibraryInTheOrderOfPriority) {
  EXPECT_EQ(names(), (std::vector<std::string>{"cpu", "reference"}));
  EXPECT_EQ(chosen(), "cpu");
  EXPECT_EQ(backends::current(), "");
  for (const auto& backend : backends::list()) {
    EXPECT_FALSE(backend->description().empty());
    EXPECT_TRUE(backend->unusable().empty());
  }
}

TEST_F(Backends, AddedOnesTakePartByTheirPriority) {
  backends::add(std::make_shared<Constant>("constant", 1'000'000, 7.0f));
  EXPECT_EQ(names().front(), "constant");
  attention(args);
  EXPECT_EQ(out.get(0), 7.0f);
  backends::add(std::make_shared<Constant>("other", -5, 8.0f));
  EXPECT_EQ(names().back(), "other");
  EXPECT_EQ(chosen(), "constant");
  backends::remove("constant");
  EXPECT_EQ(chosen(), "cpu");
}

TEST_F(Backends, RefuseNamesThatAreTakenOrUnknown) {
  EXPECT_TRUE(contains(error_of([] { backends::add(std::make_shared<Constant>("cpu", 1, 0.0f)); }),
                       "'cpu' is taken"));
  EXPECT_TRUE(contains(error_of([] { backends::add(nullptr); }), "null"));
  for (const std::string& error :
       {error_of([] { backends::remove("fast"); }), error_of([] { backends::activate("fast"); })}) {
    EXPECT_TRUE(contains(error, "no backend is named 'fast'; known: cpu, reference")) << error;
  }
}

TEST_F(Backends, PlansKeepTheirsAlive) {
  backends::add(std::make_shared<Constant>("constant", 1'000'000, 7.0f));
  const AttentionPlan plan(args);
  backends::remove("constant");
  alignas(64) std::byte workspace[256];
  plan.run(args, workspace);
  EXPECT_EQ(plan.backend(), "constant");
  EXPECT_EQ(out.get(5), 7.0f);
}

TEST_F(Backends, FallBackWhereTheFirstRefuses) {
  backends::add(std::make_shared<Constant>("constant", 1'000'000, 7.0f));
  args.softcap = 20.0f;
  EXPECT_EQ(chosen(), "cpu");
}

TEST_F(Backends, ActivationIsExplicitAndDoesNotFallBack) {
  backends::activate("reference");
  EXPECT_EQ(backends::current(), "reference");
  EXPECT_EQ(chosen(), "reference");
  backends::add(std::make_shared<Constant>("constant", 1'000'000, 7.0f));
  backends::activate("constant");
  args.softcap = 20.0f;
  args.lse = lse;
  const std::string error = error_of([&] { attention(args); });
  EXPECT_TRUE(contains(error, "no backend takes this request")) << error;
  EXPECT_TRUE(contains(error, "has no softcap: divide the scores beforehand")) << error;
  EXPECT_TRUE(contains(error, "writes no LSE")) << error;
  EXPECT_TRUE(contains(error, "activated backend asks for 'constant'")) << error;
  EXPECT_EQ(out.get(0), 1.0f) << "something was written";
  backends::restore();
  EXPECT_EQ(backends::current(), "");
  EXPECT_EQ(chosen(), "cpu");
}

TEST_F(Backends, ARequestMayNameItsOwn) {
  backends::activate("cpu");
  args.backend = "reference";
  EXPECT_EQ(chosen(), "reference");
  args.backend = "sm90000";
  EXPECT_TRUE(contains(error_of([&] { chosen(); }), "known: cpu, reference"));
}

TEST_F(Backends, RemovingTheActivatedOneRestores) {
  backends::add(std::make_shared<Constant>("constant", -5, 7.0f));
  backends::activate("constant");
  backends::remove("constant");
  EXPECT_EQ(backends::current(), "");
  EXPECT_EQ(chosen(), "cpu");
}

TEST_F(Backends, UnusableOnesSayWhyAndAreNeverChosen) {
  auto broken = std::make_shared<Constant>("constant", 1'000'000, 7.0f);
  broken->unusable_ = {"driver 470 is too old: needs 535"};
  backends::add(broken);
  EXPECT_EQ(chosen(), "cpu");
  args.backend = "constant";
  EXPECT_TRUE(contains(error_of([&] { attention(args); }), "driver 470 is too old"));
}

TEST_F(Backends, ExplainGivesEveryAnswerAsDataAndAsText) {
  backends::add(std::make_shared<Constant>("constant", 1'000'000, 7.0f));
  args.softcap = 20.0f;
  args.lse = lse;
  args.mask = Mask::causal();
  const Explanation explanation = explain(args);
  ASSERT_EQ(explanation.answers.size(), 3u);
  EXPECT_EQ(explanation.answers[0].backend, "constant");
  EXPECT_EQ(explanation.answers[0].priority, 1'000'000);
  EXPECT_FALSE(explanation.answers[0].chosen);
  EXPECT_EQ(explanation.answers[0].reasons.size(), 2u) << "all reasons, not the first";
  EXPECT_EQ(explanation.answers[1].backend, "cpu");
  EXPECT_TRUE(explanation.answers[1].chosen);
  EXPECT_TRUE(explanation.answers[1].reasons.empty());
  EXPECT_EQ(explanation.answers[2].backend, "reference");
  EXPECT_FALSE(explanation.answers[2].chosen);
  EXPECT_TRUE(explanation.answers[2].reasons.empty());
  std::ostringstream stream;
  stream << explanation;
  EXPECT_EQ(stream.str(), explanation.text());
  for (const char* part : {"constant", "has no softcap", "writes no LSE", "cpu", "chosen",
                           "reference", "able", "causal", "softcap 20"}) {
    EXPECT_TRUE(contains(explanation.text(), part)) << part << " in\n" << explanation.text();
  }
  EXPECT_EQ(out.get(0), 1.0f) << "explain() runs nothing";
}

TEST_F(Backends, OperationsThatABackendLacksAreRefusedByName) {
  backends::add(std::make_shared<Constant>("constant", 1'000'000, 7.0f));
  HostTensor codes(Dtype::e4m3, {1, 2, 1, 16}), scale(Dtype::f32, {1});
  QuantizeArgs quantize_args{.x = q, .out = codes, .descale = Scale::per_tensor(scale)};
  const Explanation explanation = explain(quantize_args);
  EXPECT_EQ(explanation.answers[0].reasons, Reasons{"constant has no quantize"});
  EXPECT_TRUE(explanation.answers[1].chosen);
  // sdpa() is composed of them: exact needs none.
  EXPECT_TRUE(explain(args, {.recipe = Recipe::exact()}).answers[0].reasons.empty());
  EXPECT_FALSE(explain(args, {.recipe = Recipe::int8qk()}).answers[0].reasons.empty());
}

TEST_F(Backends, EnvironmentNamesABackend) {
  setenv("SOTTO_BACKEND", "reference", 1);
  EXPECT_EQ(backends::current(), "reference");
  EXPECT_EQ(chosen(), "reference");
  args.backend = "cpu";
  EXPECT_EQ(chosen(), "cpu") << "the request's own comes first";
  args.backend = {};
  backends::activate("cpu");
  EXPECT_EQ(chosen(), "cpu") << "then the activated one";
  backends::restore();
  setenv("SOTTO_BACKEND", "tpu", 1);
  const std::string error = error_of([&] { chosen(); });
  EXPECT_TRUE(contains(error, "SOTTO_BACKEND")) << error;
  EXPECT_TRUE(contains(error, "'tpu'; known: cpu, reference")) << error;
}

TEST_F(Backends, EnvironmentTakesBackendsOutOfTheChoice) {
  setenv("SOTTO_DISABLE", "cpu", 1);
  EXPECT_EQ(chosen(), "reference");
  EXPECT_EQ(explain(args).answers[0].reasons, Reasons{"disabled by SOTTO_DISABLE"});
  args.backend = "cpu";
  EXPECT_EQ(chosen(), "cpu") << "a request by name is not a choice";
  args.backend = {};
  setenv("SOTTO_DISABLE", " cpu , reference ", 1);
  EXPECT_TRUE(contains(error_of([&] { chosen(); }), "disabled by SOTTO_DISABLE"));
  setenv("SOTTO_DISABLE", "cpu,nothing", 1);
  EXPECT_TRUE(contains(error_of([&] { chosen(); }), "SOTTO_DISABLE"));
}

TEST_F(Backends, EnvironmentLogsSelections) {
  std::vector<std::pair<LogLevel, std::string>> log;
  set_log_callback([&](LogLevel level, std::string_view text) { log.emplace_back(level, text); });
  attention(args);
  EXPECT_TRUE(log.empty());
  setenv("SOTTO_LOG", "explain", 1);
  attention(args);
  ASSERT_EQ(log.size(), 1u);
  EXPECT_EQ(log[0].first, LogLevel::explain);
  EXPECT_EQ(log[0].second, explain(args).text());
  log.clear();
  setenv("SOTTO_LOG", "debug", 1);
  attention(args);
  ASSERT_EQ(log.size(), 2u);
  EXPECT_EQ(log[1].first, LogLevel::debug);
  EXPECT_TRUE(contains(log[1].second, "workspace")) << log[1].second;
  setenv("SOTTO_LOG", "loud", 1);
  EXPECT_TRUE(contains(error_of([&] { attention(args); }), "explain or debug, got 'loud'"));
}

TEST_F(Backends, RunsReadTheEnvironmentAnew) {
  EXPECT_EQ(chosen(), "cpu");
  setenv("SOTTO_BACKEND", "reference", 1);
  EXPECT_EQ(chosen(), "reference");
  unsetenv("SOTTO_BACKEND");
  EXPECT_EQ(chosen(), "cpu");
}

TEST_F(Backends, MissingDescaleOfE4m3IsWarnedOfOnce) {
  int warnings = 0;
  set_log_callback([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::warning && contains(std::string(text), "descale")) ++warnings;
  });
  HostTensor codes(Dtype::e4m3, {1, 2, 1, 16}, std::vector<float>(32, 1.0f));
  args.q = args.k = args.v = codes;
  for (int i = 0; i < 3; ++i) attention(args);
  EXPECT_LE(warnings, 1);
  EXPECT_EQ(out.get(0), 1.0f);
}

}  // namespace
}  // namespace sotto

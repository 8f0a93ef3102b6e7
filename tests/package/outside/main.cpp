// What a program outside needs from the installed library: to call it, to catch its exceptions by
// type, to derive from its classes and to find out its version.
#include <sotto/sotto.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

int failures = 0;

void expect(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "failed: %s\n", what);
  ++failures;
}

class Ones : public sotto::Backend {
 public:
  std::string_view name() const override { return "ones"; }
  std::string_view description() const override { return "writes 1 everywhere"; }
  int priority() const override { return -1; }
  sotto::Reasons refuse(const sotto::Problem& problem) const override {
    if (problem.lse) return {"writes no LSE: leave lse empty"};
    return {};
  }
  std::unique_ptr<const sotto::AttentionKernel> plan(const sotto::AttentionArgs&,
                                                     const sotto::Problem&) const override {
    return std::make_unique<Kernel>();
  }

 private:
  class Kernel : public sotto::AttentionKernel {
   public:
    std::size_t workspace_size() const override { return 0; }
    void run(const sotto::AttentionArgs& args, sotto::Workspace, sotto::Stream) const override {
      std::fill_n(static_cast<float*>(args.out.data), args.out.numel(), 1.0f);
    }
  };
};

template <class Expected, class Call>
bool throws(Call&& call) {
  try {
    call();
  } catch (const Expected&) {
    return true;
  } catch (...) {
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string macros = std::to_string(SOTTO_VERSION_MAJOR) + '.' +
                             std::to_string(SOTTO_VERSION_MINOR) + '.' +
                             std::to_string(SOTTO_VERSION_PATCH);
  expect(argc == 2 && macros == argv[1], "the header's version is the package's");
  expect(sotto::version() == macros, "the library's version is the header's");

  std::vector<float> q(8 * 2 * 16, 0.5f), k = q, v(q.size(), 2.0f), out(q.size()), lse(8 * 2);
  sotto::AttentionArgs args{.q = {q.data(), {1, 8, 2, 16}},
                            .k = {k.data(), {1, 8, 2, 16}},
                            .v = {v.data(), {1, 8, 2, 16}},
                            .out = {out.data(), {1, 8, 2, 16}},
                            .mask = sotto::Mask::causal()};
  sotto::sdpa(args, {.recipe = sotto::Recipe::fp8()});
  expect(std::all_of(out.begin(), out.end(), [](float x) { return std::abs(x - 2) < 0.1f; }),
         "attention over equal values is that value");

  sotto::AttentionArgs wrong = args;
  wrong.k = {k.data(), {1, 8, 2, 8}};
  expect(throws<sotto::InvalidArgument>([&] { sotto::attention(wrong); }), "catch InvalidArgument");
  wrong = args;
  wrong.dropout_p = 0.5f;
  expect(throws<sotto::Unsupported>([&] { sotto::attention(wrong); }), "catch Unsupported");
  expect(throws<sotto::Error>([&] { sotto::attention(wrong); }), "catch the base, Error");

  sotto::backends::add(std::make_shared<Ones>());
  expect(dynamic_cast<const Ones*>(sotto::backends::list().back().get()) != nullptr,
         "a backend from outside keeps its type");
  sotto::backends::activate("ones");
  sotto::attention(args);
  expect(out[0] == 1.0f, "a backend from outside runs");
  args.lse = {lse.data(), {1, 2, 8}};
  expect(sotto::explain(args).text().find("writes no LSE") != std::string::npos,
         "its reasons are told");
  expect(throws<sotto::Unsupported>([&] { sotto::attention(args); }), "and thrown");

  if (failures == 0) std::printf("sotto %s: all well\n", macros.c_str());
  return failures == 0 ? 0 : 1;
}

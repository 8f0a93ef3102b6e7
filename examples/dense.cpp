// Dense attention: one call that quantises inside, what each recipe costs in accuracy, and the same
// with a plan, for a loop that calls often.
#include <sotto/sotto.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace {

std::vector<float> random_numbers(std::size_t count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(generator);
  return numbers;
}

// Signal-to-noise ratio in decibels: 20 dB is an error of 10 %, 40 dB of 1 %.
double sqnr(const std::vector<float>& truth, const std::vector<float>& seen) {
  double signal = 0, noise = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    signal += truth[i] * truth[i];
    noise += (truth[i] - seen[i]) * (truth[i] - seen[i]);
  }
  return 10 * std::log10(signal / noise);
}

// A workspace wants to begin at a multiple of 64 bytes.
struct alignas(64) CacheLine {
  std::byte bytes[64];
};

}  // namespace

int main() {
  // Grouped queries: 8 query heads share 2 heads of K and V.
  constexpr int kBatch = 1, kLen = 512, kHeadsQ = 8, kHeadsKv = 2, kDim = 64;
  const auto q = random_numbers(kBatch * kLen * kHeadsQ * kDim);
  const auto k = random_numbers(kBatch * kLen * kHeadsKv * kDim);
  const auto v = random_numbers(kBatch * kLen * kHeadsKv * kDim);
  std::vector<float> exact(q.size()), out(q.size());

  // A request is a struct of views: nothing is owned, nothing is copied. The dtype follows from the
  // pointer; the shape is [batch, len, heads, dim].
  sotto::AttentionArgs args{.q = {q.data(), {kBatch, kLen, kHeadsQ, kDim}},
                            .k = {k.data(), {kBatch, kLen, kHeadsKv, kDim}},
                            .v = {v.data(), {kBatch, kLen, kHeadsKv, kDim}},
                            .out = {exact.data(), {kBatch, kLen, kHeadsQ, kDim}},
                            .mask = sotto::Mask::causal()};
  sotto::attention(args);  // on the numbers as they are

  // sdpa() quantises first, by a recipe; the default is int8qk.
  args.out = {out.data(), {kBatch, kLen, kHeadsQ, kDim}};
  for (const std::string& name : sotto::Recipe::names()) {
    if (name == "exact") continue;
    sotto::sdpa(args, {.recipe = sotto::Recipe::parse(name)});
    std::printf("%-14s%5.1f dB\n", name.c_str(), sqnr(exact, out));
  }

  // A serving loop decides once: the plan holds the choice of a backend and knows how much memory a
  // run needs. Pointers and strides may differ from run to run, shapes and dtypes may not.
  const sotto::SdpaPlan plan(args);
  std::vector<CacheLine> memory(plan.workspace_size() / sizeof(CacheLine) + 1);
  const sotto::Workspace workspace = std::as_writable_bytes(std::span(memory));
  for (int call = 0; call < 3; ++call) plan.run(args, {}, workspace);
  std::printf("%-14s%5.1f dB with a plan\n", to_string(plan.recipe()).c_str(), sqnr(exact, out));
}

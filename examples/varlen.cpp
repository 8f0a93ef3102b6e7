// A ragged batch: sequences of different lengths lie one after the other, without padding.
#include <sotto/sotto.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

std::vector<float> random_numbers(std::size_t count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(generator);
  return numbers;
}

}  // namespace

int main() {
  constexpr int kHeadsQ = 4, kHeadsKv = 2, kDim = 64;

  // Three sequences of 300, 0 and 45 tokens: sequence b is tokens starts[b] … starts[b + 1] - 1.
  const std::vector<std::int32_t> starts = {0, 300, 300, 345};
  const int batch = static_cast<int>(starts.size()) - 1;
  const int total = starts.back();
  const auto q = random_numbers(total * kHeadsQ * kDim);
  const auto k = random_numbers(total * kHeadsKv * kDim);
  const auto v = random_numbers(total * kHeadsKv * kDim);
  std::vector<float> out(q.size());

  // Packed tensors have no batch dimension, [total, heads, dim]; cu_seqlens cut it into sequences.
  const sotto::Tensor cu_seqlens(starts.data(), {batch + 1});
  sotto::sdpa({.q = {q.data(), {total, kHeadsQ, kDim}},
               .k = {k.data(), {total, kHeadsKv, kDim}},
               .v = {v.data(), {total, kHeadsKv, kDim}},
               .out = {out.data(), {total, kHeadsQ, kDim}},
               .mask = sotto::Mask::causal(),
               .seq = {.cu_seqlens_q = cu_seqlens, .cu_seqlens_k = cu_seqlens}});

  // Each sequence by itself gives the same.
  for (int b = 0; b < batch; ++b) {
    const int start = starts[b], len = starts[b + 1] - start;
    if (len == 0) continue;
    std::vector<float> alone(len * kHeadsQ * kDim);
    sotto::sdpa({.q = {q.data() + start * kHeadsQ * kDim, {1, len, kHeadsQ, kDim}},
                 .k = {k.data() + start * kHeadsKv * kDim, {1, len, kHeadsKv, kDim}},
                 .v = {v.data() + start * kHeadsKv * kDim, {1, len, kHeadsKv, kDim}},
                 .out = {alone.data(), {1, len, kHeadsQ, kDim}},
                 .mask = sotto::Mask::causal()});
    float difference = 0;
    for (std::size_t i = 0; i < alone.size(); ++i)
      difference = std::max(difference, std::abs(alone[i] - out[start * kHeadsQ * kDim + i]));
    std::printf("sequence %d, %3d tokens: largest difference %.5f\n", b, len, difference);
  }
}

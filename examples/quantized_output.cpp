// Output that is quantised on the way out, as the next matrix product wants it: FP8 with one scale,
// FP8 with a scale for each group of channels, and NVFP4.
#include <sotto/sotto.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

constexpr int kTokens = 256, kHeads = 4, kDim = 128;
constexpr int kWidth = kHeads * kDim;  // of the matrix [tokens, heads·dim] that comes out

std::vector<float> random_numbers(std::size_t count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(generator);
  return numbers;
}

// Prints the signal-to-noise ratio in decibels of the number that `value(token, channel)` reads.
template <class Value>
void compare(const char* name, const std::vector<float>& exact, Value value) {
  double signal = 0, noise = 0;
  for (int token = 0; token < kTokens; ++token) {
    for (int channel = 0; channel < kWidth; ++channel) {
      const float truth = exact[token * kWidth + channel];
      const float error = truth - value(token, channel);
      signal += truth * truth;
      noise += error * error;
    }
  }
  std::printf("%-16s%5.1f dB\n", name, 10 * std::log10(signal / noise));
}

}  // namespace

int main() {
  const auto q = random_numbers(kTokens * kWidth), k = random_numbers(kTokens * kWidth),
             v = random_numbers(kTokens * kWidth);
  std::vector<float> exact(kTokens * kWidth);
  sotto::AttentionArgs args{.q = {q.data(), {1, kTokens, kHeads, kDim}},
                            .k = {k.data(), {1, kTokens, kHeads, kDim}},
                            .v = {v.data(), {1, kTokens, kHeads, kDim}},
                            .out = {exact.data(), {1, kTokens, kHeads, kDim}},
                            .mask = sotto::Mask::causal()};
  sotto::attention(args);

  // FP8, one scale for all, known beforehand (from calibration): out = e4m3(o / scale). It lies in
  // a tensor and is read where the kernel runs, so that a GPU need not wait for the host.
  std::vector<sotto::e4m3> fp8(kTokens * kWidth);
  const float scale = 4.0f / sotto::e4m3::kMax;  // outputs up to 4 fit, larger ones saturate
  args.out = {fp8.data(), {1, kTokens, kHeads, kDim}};
  args.output = {.scale = {&scale, {1}}};
  sotto::attention(args);
  compare("FP8, one scale", exact, [&](int token, int channel) {
    return static_cast<float>(fp8[token * kWidth + channel]) * scale;
  });

  // FP8, a scale for each 64 channels, found and written with the numbers. The group's size follows
  // from the shape of group_scale.
  constexpr int kGroup = 64;
  std::vector<float> group_scales(kTokens * kWidth / kGroup);
  args.output = {.group_scale = {group_scales.data(), {kTokens, kWidth / kGroup}}};
  sotto::attention(args);
  compare("FP8, by groups", exact, [&](int token, int channel) {
    const int i = token * kWidth + channel;
    return static_cast<float>(fp8[i]) * group_scales[i / kGroup];
  });

  // NVFP4: 4 bits a number, two in a byte, and an e4m3 scale for each 16 in the 128x4 swizzled
  // layout that the tensor cores read. A global scale brings the scales into e4m3's range.
  constexpr int kColumns =
      kWidth / 16;  // of the scales; both sizes are multiples of 128 and 4 here
  std::vector<std::uint8_t> pairs(kTokens * kWidth / 2);
  std::vector<sotto::e4m3> scales(kTokens * kColumns);
  const float global = sotto::e4m3::kMax * sotto::e2m1::kMax / 4.0f;  // again for outputs up to 4
  args.out = {pairs.data(), sotto::Dtype::e2m1x2, {1, kTokens, kHeads, kDim / 2}};
  args.output = {.scale = {&global, {1}}, .group_scale = {scales.data(), {kTokens, kColumns}}};
  sotto::attention(args);
  compare("NVFP4", exact, [&](int token, int channel) {
    const int i = token * kWidth + channel;
    const auto number = sotto::e2m1::from_bits(i % 2 == 0 ? pairs[i / 2] & 0xf : pairs[i / 2] >> 4);
    const int c = channel / 16;
    const int at = (token / 128 * (kColumns / 4) + c / 4) * 512 +  // which 128x4 tile
                   token % 32 * 16 + token / 32 % 4 * 4 + c % 4;   // where in it
    return static_cast<float>(number) * static_cast<float>(scales[at]) / global;
  });
}

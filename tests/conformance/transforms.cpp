#include "transforms.h"

#include <bit>
#include <cmath>

namespace sotto::test {
namespace {

struct Rotation {
  float cos, sin;
};

Rotation rotation(std::int64_t position, std::int64_t pair, std::int64_t pairs) {
  const double angle = static_cast<double>(position) *
                       std::pow(10000.0, -static_cast<double>(pair) / static_cast<double>(pairs));
  return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
}

}  // namespace

RopeWords::RopeWords(Spec& spec, std::int64_t dim_) : dim(dim_) {
  const auto words = split(spec.text("rope", ""), ':');
  present = spec.has("rope");
  interleaved = words.front() == "interleaved";
  rotary_dim = words.size() > 1 ? std::stoll(words[1]) : dim;
  full = spec.has("rope_full");
  positions = spec.has("positions");
}

Rope RopeWords::tables(Arena& arena, std::int64_t count) const {
  if (!present) return {};
  const std::int64_t pairs = rotary_dim / 2, width = full ? rotary_dim : pairs;
  std::vector<float> cos, sin;
  for (std::int64_t position = 0; position < count; ++position) {
    for (std::int64_t d = 0; d < width; ++d) {
      const std::int64_t pair = !full ? d : interleaved ? d / 2 : d % pairs;
      const Rotation of_pair = rotation(position, pair, pairs);
      cos.push_back(of_pair.cos);
      sin.push_back(of_pair.sin);
    }
  }
  return {.cos = arena.copy(cos, {count, width}),
          .sin = arena.copy(sin, {count, width}),
          .interleaved = interleaved,
          .rotary_dim = rotary_dim == dim ? 0 : rotary_dim};
}

void RopeWords::rotate(std::vector<double>& x, std::int64_t position) const {
  if (!present) return;
  const std::int64_t pairs = rotary_dim / 2;
  for (std::int64_t p = 0; p < pairs; ++p) {
    double& x0 = x[static_cast<std::size_t>(interleaved ? 2 * p : p)];
    double& x1 = x[static_cast<std::size_t>(interleaved ? 2 * p + 1 : p + pairs)];
    const auto [cos, sin] = rotation(position, p, pairs);
    const double y0 = x0 * cos - x1 * sin;
    x1 = x1 * cos + x0 * sin;
    x0 = y0;
  }
}

std::vector<double> hadamard(const std::vector<double>& x) {
  std::size_t n = 1;
  while (n < 256 && x.size() % (2 * n) == 0) n *= 2;
  std::vector<double> y(x.size());
  for (std::size_t block = 0; block < x.size(); block += n) {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        y[block + i] += (std::popcount(i & j) % 2 ? -1.0 : 1.0) * x[block + j];
      }
      y[block + i] /= std::sqrt(static_cast<double>(n));
    }
  }
  return y;
}

}  // namespace sotto::test

// What happens to a row before it is quantised, from the formulas: RoPE and Hadamard.
#pragma once

#include <string>
#include <vector>

#include "placing.h"
#include "sotto/quantize.h"
#include "spec.h"

namespace sotto::test {

// RoPE as a case's words ask for it:
//   rope=halves|interleaved[:rotary_dim]  rope_full (a factor per channel, not per pair)  positions
struct RopeWords {
  RopeWords() = default;
  RopeWords(Spec& spec, std::int64_t dim);

  bool present = false, interleaved = false, full = false, positions = false;
  std::int64_t dim = 0, rotary_dim = 0;

  // Tables for positions [0, count), without Rope::positions.
  Rope tables(Arena& arena, std::int64_t count) const;
  // A row, rotated in place; nothing where RoPE is absent.
  void rotate(std::vector<double>& x, std::int64_t position) const;
};

// The Hadamard transform of a row, by its matrix.
std::vector<double> hadamard(const std::vector<double>& x);

}  // namespace sotto::test

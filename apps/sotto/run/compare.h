// How far two arrays of numbers are from each other.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace sotto::cli {

struct Comparison {
  // 10·log10(Σ ref² / Σ (ref − out)²) over the elements that are finite in both: infinite where
  // they are equal.
  double sqnr_db = 0;
  double max_abs_error = 0;  // over the same
  std::size_t worst = 0;     // where that is
  // The first element that differs at all; a NaN equals a NaN.
  std::optional<std::size_t> first_mismatch;
  // Elements that are finite in one only, or different infinities, or NaN in one only.
  std::size_t nonfinite_mismatches = 0;
};

// The spans have equal sizes.
Comparison compare(std::span<const float> out, std::span<const float> reference);

}  // namespace sotto::cli

// Whether a backend's result is good enough, and how good it is.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "request.h"
#include "truth.h"

namespace sotto::test {

// 10·log10(Σ reference² / Σ (reference − result)²); +inf where they are equal.
double sqnr_db(const std::vector<double>& reference, const std::vector<double>& result);

struct Verdict {
  double arithmetic_db = 0;  // against `reference` on the same (quantised) inputs
  double truth_db = 0;       // against the truth: attention of the inputs before quantisation
  std::vector<std::string> faults;
};

// The least SQNR that a backend must reach in a case, before the rounding of the output format.
double least_arithmetic_db(const AttentionCase& c, std::string_view backend);
double least_truth_db(const AttentionCase& c, std::string_view backend);

// `oracle` is `reference`'s plain fp32 result, `amax` what the output scale was made for.
Verdict judge(const AttentionCase& c, std::string_view backend, const std::vector<Exact>& truth,
              const Result& oracle, double amax, const Result& result);

}  // namespace sotto::test

// What `sotto run` found, as text and as JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "run/compare.h"
#include "run/request.h"
#include "sotto/backend.h"

namespace sotto::cli {

struct NamedComparison {
  std::string name;                                // out, lse
  std::string reference;                           // what it was compared with
  std::vector<std::int64_t> shape;                 // of values, not of codes
  std::pair<float, float> first = {}, worst = {};  // ours, theirs, at these places
  Comparison figures;
};

struct RunSummary {
  Explanation explanation = {};
  bool explain = false;         // asked for
  std::string backend, recipe;  // recipe: empty for attention on the dtypes as given
  const RunRequest* request = nullptr;
  double seconds = 0;
  std::string out;  // "bf16 [1, 8, 2, 64]"
  double out_amax = 0;
  std::size_t out_nonfinite = 0;
  std::vector<std::string> files;  // written
  std::vector<NamedComparison> comparisons;
};

std::string to_text(const RunSummary& summary);
std::string to_json(const RunSummary& summary);

}  // namespace sotto::cli

// Backend `reference`: float64, three loops, the oracle of every test. What it refuses is said in
// rules.cpp; attention is in attention.cpp, the operations around it in files of their names.
#pragma once

#include "sotto/backend.h"

namespace sotto::reference {

Reasons refuse(const Problem& problem);
Reasons refuse_device(const Device& device);

// O and LSE as AttentionArgs defines them, rounded once, on writing. P is not rounded to e4m3 and
// `fast`, `accumulation` and `num_splits` change nothing: the result is exact for the given inputs.
void attend(const AttentionArgs& args, const Problem& problem);

void merge(const MergeArgs& args);

}  // namespace sotto::reference

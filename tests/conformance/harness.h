// Tables of cases as GoogleTest tests, one for each case and backend, and what is counted of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sotto/backend.h"

namespace sotto::test {

// A test of one case on one backend. Faults are reported with ADD_FAILURE and the like.
using CaseTest = void (*)(const std::string& line, const std::string& backend);

// Whether a backend claims to take every request.
bool is_complete(const std::string& backend);

Reasons reasons_of(const std::string& backend, const Explanation& explanation);

// Registers the cases of `lines` (see expand() in spec.h) for every backend as
// "<family>.<backend>_<case>", or, for one that cannot be used on this machine, one test that is
// skipped. The tests of a case follow one another.
void register_family(const char* family, const std::vector<std::string_view>& lines, CaseTest test);

// What a case does first: whether it goes on. A backend whose rules refuse makes the test skipped,
// counts, and is printed at the end with the reasons. Complete backends must refuse nothing: for
// them it is a failure.
bool accepts(const std::string& backend, const std::string& line, const Explanation& explanation);

}  // namespace sotto::test

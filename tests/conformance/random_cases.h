// Random lines for the table of attention cases: everything that a line can say, in legal
// combinations, small enough to run thousands of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sotto::test {

// Case n depends on seed + n alone: more cases from the same seed begin with the same ones.
std::vector<std::string> random_cases(std::uint64_t seed, std::int64_t count);

}  // namespace sotto::test

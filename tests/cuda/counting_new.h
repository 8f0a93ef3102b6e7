// operator new of this program, which counts.
#pragma once

#include <cstdint>

namespace sotto::test {

// Allocations of the calling thread so far.
std::int64_t allocations();

}  // namespace sotto::test

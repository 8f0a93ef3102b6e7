// operator new of this program, which can be told to fail.
#pragma once

#include <cstdint>

namespace sotto::test {

// From now on the n-th allocation of the whole program (1: the next one) fails, once.
void fail_allocation(std::int64_t n);
// None fails any more. Returns whether one did.
bool stop_failing();

}  // namespace sotto::test

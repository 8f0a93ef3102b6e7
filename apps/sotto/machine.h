// The machine that the program runs on.
#pragma once

#include <string>
#include <vector>

namespace sotto::cli {

std::string cpu_model();

// Instruction sets of this CPU that Highway has kernels for, the best first.
std::vector<std::string> simd_targets();

}  // namespace sotto::cli

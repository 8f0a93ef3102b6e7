// Tables for terminals.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace sotto::cli {

// Columns as wide as they need to be; the first `left` of them begin at the left, the others end at
// the right.
std::string format_table(const std::vector<std::vector<std::string>>& rows, std::size_t left);

}  // namespace sotto::cli

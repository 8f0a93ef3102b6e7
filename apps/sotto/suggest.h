#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sotto::cli {

// The candidate that takes the fewest edits (insert, delete, replace, swap neighbours) to reach,
// or an empty string where none is near enough to have been meant.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace sotto::cli

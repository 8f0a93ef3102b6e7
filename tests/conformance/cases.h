// The table of attention cases. A line is one case, or several where it has braces; the words are
// explained in attention_case.h.
#pragma once

#include <string_view>
#include <vector>

namespace sotto::test {

struct Family {
  const char* name;
  std::vector<std::string_view> lines;
};

const std::vector<Family>& families();

}  // namespace sotto::test

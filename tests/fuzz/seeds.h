// What the fuzzers start from: small inputs that are right.
#pragma once

#include <string>
#include <vector>

namespace sotto::fuzz {

struct Seed {
  std::string target;  // the name of the target that reads it
  std::string content;
};

std::vector<Seed> seeds();

}  // namespace sotto::fuzz

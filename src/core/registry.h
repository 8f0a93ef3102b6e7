// The registry, as the rest of the core sees it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sotto/backend.h"

namespace sotto::core {

// What is registered and activated at one moment, whatever other threads change next.
struct Registered {
  std::vector<std::shared_ptr<const Backend>> all;  // highest priority first
  std::string activated;                            // one of them, or empty
};

Registered registered();

}  // namespace sotto::core

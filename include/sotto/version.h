#pragma once

#include <string_view>

#define SOTTO_VERSION_MAJOR 0
#define SOTTO_VERSION_MINOR 1
#define SOTTO_VERSION_PATCH 0

namespace sotto {

// "0.1.0", of the library that is linked.
std::string_view version();

}  // namespace sotto

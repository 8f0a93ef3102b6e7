/// @file
/// Which version the headers have, and which the library.
#pragma once

#include <string_view>

#include "sotto/export.h"

#define SOTTO_VERSION_MAJOR 0  ///< of the headers; docs/versioning.md says what a step means
#define SOTTO_VERSION_MINOR 1  ///< of the headers
#define SOTTO_VERSION_PATCH 0  ///< of the headers

namespace sotto {

/// "0.1.0", of the library that is linked.
SOTTO_API std::string_view version();

}  // namespace sotto

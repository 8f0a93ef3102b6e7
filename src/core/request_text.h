// A request in one line, for explain() and the log.
#pragma once

#include <string>

#include "sotto/backend.h"

namespace sotto::core {

std::string request_text(const Problem& problem);

}  // namespace sotto::core

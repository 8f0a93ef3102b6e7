#pragma once

#include <string_view>

#include "sotto/log.h"

namespace sotto::core {

void log(LogLevel level, std::string_view message);

}  // namespace sotto::core

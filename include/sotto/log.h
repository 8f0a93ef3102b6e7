/// @file
/// Where warnings and the output of SOTTO_LOG go.
#pragma once

#include <functional>
#include <string_view>

#include "sotto/export.h"

namespace sotto {

/// Kinds of messages.
enum class LogLevel {
  debug,    ///< plans, under SOTTO_LOG=debug
  explain,  ///< every choice of a backend with its reasons, under SOTTO_LOG=explain or debug
  warning,  ///< what is legal and probably not meant
};

/// Gets each message, without a newline; called from any thread that calls the library.
using LogCallback = std::function<void(LogLevel level, std::string_view message)>;

/// Replaces the callback; an empty one restores the default, which writes a line to standard error.
/// Thread-safe. debug and explain messages are only made when SOTTO_LOG asks for them.
SOTTO_API void set_log_callback(LogCallback callback);

}  // namespace sotto

// Where warnings and the output of SOTTO_LOG go.
#pragma once

#include <functional>
#include <string_view>

namespace sotto {

enum class LogLevel { debug, explain, warning };

using LogCallback = std::function<void(LogLevel level, std::string_view message)>;

// Replaces the callback; an empty one restores the default, which writes a line to standard error.
// Thread-safe. debug and explain messages are only made when SOTTO_LOG asks for them.
void set_log_callback(LogCallback callback);

}  // namespace sotto

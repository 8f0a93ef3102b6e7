#include "core/log.h"

#include <cstdio>
#include <mutex>
#include <string>

namespace sotto {
namespace {

std::mutex mutex;
LogCallback callback;

void write_to_stderr(LogLevel level, std::string_view message) {
  std::string line = level == LogLevel::warning ? "sotto: warning: " : "sotto: ";
  line.append(message).push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void set_log_callback(LogCallback replacement) {
  const std::lock_guard lock(mutex);
  callback.swap(replacement);  // the old one is destroyed after the lock is released
}

void core::log(LogLevel level, std::string_view message) {
  LogCallback current;
  {
    const std::lock_guard lock(mutex);
    current = callback;
  }
  if (current) {
    current(level, message);
  } else {
    write_to_stderr(level, message);
  }
}

}  // namespace sotto

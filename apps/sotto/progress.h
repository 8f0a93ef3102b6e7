#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace sotto::cli {

// A bar with the time left on standard error, where that is a terminal; elsewhere nothing.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();  // takes the bar away
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::int64_t done, std::int64_t total);

 private:
  using Clock = std::chrono::steady_clock;

  std::string label_;
  bool terminal_;
  Clock::time_point start_ = Clock::now(), drawn_ = {};
};

}  // namespace sotto::cli

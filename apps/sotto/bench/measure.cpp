#include "bench/measure.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <string>

namespace sotto::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A line "VmHWM:   1234 kB" of /proc/self/status, in bytes.
std::optional<double> status_bytes(const std::string& field) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(field + ":")) return 1024 * std::stod(line.substr(field.size() + 1));
  return std::nullopt;
}

// The most memory that the process has resident from now on, beside what it has now.
class PeakMemory {
 public:
  PeakMemory() {
    malloc_trim(0);  // memory that an earlier case gave back must not hide what this one takes
    std::ofstream reset("/proc/self/clear_refs");
    reset << "5" << std::flush;  // the high-water mark begins anew (Linux 4.0)
    if (reset) before_ = status_bytes("VmRSS");
  }

  std::optional<double> bytes() const {
    const auto peak = status_bytes("VmHWM");
    if (!before_ || !peak) return std::nullopt;
    return std::max(0.0, *peak - *before_);
  }

 private:
  std::optional<double> before_;
};

// With linear interpolation between neighbours.
double quantile(std::vector<double> values, double fraction) {
  std::sort(values.begin(), values.end());
  const double at = fraction * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(at));
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - std::floor(at)) * (values[above] - values[below]);
}

}  // namespace

double Measurement::median() const { return quantile(seconds, 0.5); }
double Measurement::spread() const {
  return (quantile(seconds, 0.75) - quantile(seconds, 0.25)) / median();
}

Measurement measure(const std::function<void()>& call, const MeasureOptions& options) {
  Measurement result;
  const PeakMemory memory;
  const auto begin = Clock::now();
  for (std::int64_t i = 0; i < options.warmup; ++i) {
    if (i > 0 && seconds_since(begin) > options.max_seconds) break;
    call();
    if (i == 0) result.peak_bytes = memory.bytes();
  }
  for (std::int64_t i = 0; i < options.repeats; ++i) {
    if (i > 0 && seconds_since(begin) > options.max_seconds) break;
    const auto start = Clock::now();
    call();
    result.seconds.push_back(seconds_since(start));
    if (options.warmup == 0 && i == 0) result.peak_bytes = memory.bytes();
  }
  return result;
}

}  // namespace sotto::cli

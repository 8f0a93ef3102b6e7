#include "progress.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include <fmt/format.h>

namespace sotto::cli {
namespace {

constexpr std::int64_t kWidth = 40;
constexpr std::chrono::milliseconds kInterval{100};
constexpr const char* kEraseLine = "\r\x1b[K";

}  // namespace

Progress::Progress(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (terminal_) fmt::print(stderr, "{}", kEraseLine);
}

void Progress::show(std::int64_t done, std::int64_t total) {
  const auto now = Clock::now();
  if (!terminal_ || done <= 0 || now - drawn_ < kInterval) return;
  drawn_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = elapsed * static_cast<double>(total - done) / static_cast<double>(done);
  fmt::print(stderr, "{}{} [{:-<{}}] {:3} %, {:.0f} s left", kEraseLine, label_,
             std::string(static_cast<std::size_t>(kWidth * done / total), '#'), kWidth,
             100 * done / total, left);
  std::fflush(stderr);
}

}  // namespace sotto::cli

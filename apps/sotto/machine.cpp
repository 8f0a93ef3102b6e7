#include "machine.h"

#include <cstdint>
#include <fstream>

#include <hwy/targets.h>

namespace sotto::cli {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::vector<std::string> simd_targets() {
  std::vector<std::string> names;
  const std::int64_t supported = hwy::SupportedTargets();
  for (int bit = 0; bit < 62; ++bit)  // a lower bit is a better target; the highest mean none
    if (const std::int64_t target = std::int64_t{1} << bit; (supported & target) != 0)
      names.emplace_back(hwy::TargetName(target));
  return names;
}

}  // namespace sotto::cli

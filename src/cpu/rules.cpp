// What backend `cpu` refuses, and what to do instead.
#include <string>

#include "cpu/attention.h"
#include "cpu/row_grid.h"

namespace sotto::cpu {
namespace {

struct Rule {
  bool (*broken)(const Problem&);
  const char* reason;
};

constexpr Rule kRules[] = {
    {[](const Problem& p) { return p.dropout; },
     "has no dropout (dropout_p > 0): use dropout_p = 0, as inference does; train with the "
     "framework's own attention"},
    {[](const Problem& p) { return p.alibi; },
     "has no ALiBi (alibi_slopes): pass slope · (j - i) as an additive mask.dense"},
    {[](const Problem& p) { return p.backward; },
     "has no backward pass (needs_backward): train with the framework's own 16-bit attention"},
};

}  // namespace

Reasons refuse_device(const Device& device) {
  if (device.type == DeviceType::cpu) return {};
  return {"computes on the CPU, but the tensors are on " + to_string(device) +
          ": copy them to host memory"};
}

Reasons refuse_rows(const Device& device, std::int64_t dim) {
  Reasons reasons = refuse_device(device);
  if (dim > kMaxDim) {
    reasons.push_back("takes head sizes up to " + std::to_string(kMaxDim) + " here, got " +
                      std::to_string(dim));
  }
  return reasons;
}

Reasons refuse(const Problem& problem) {
  Reasons reasons = refuse_device(problem.device);
  for (const Rule& rule : kRules) {
    if (rule.broken(problem)) reasons.emplace_back(rule.reason);
  }
  return reasons;
}

}  // namespace sotto::cpu

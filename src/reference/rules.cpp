// What backend `reference` refuses, and what to do instead.
#include "reference/backend.h"

namespace sotto::reference {

Reasons refuse_device(const Device& device) {
  if (device.type == DeviceType::cpu) return {};
  return {"computes on the CPU, but the tensors are on " + to_string(device) +
          ": copy them to host memory"};
}

Reasons refuse(const Problem& problem) {
  Reasons reasons = refuse_device(problem.device);
  if (problem.dropout) {
    reasons.push_back("has no dropout (dropout_p > 0): use dropout_p = 0, as inference does");
  }
  if (problem.alibi) {
    reasons.push_back(
        "has no ALiBi (alibi_slopes): pass slope · (j - i) as an additive mask.dense");
  }
  if (problem.backward) {
    reasons.push_back(
        "has no backward pass (needs_backward): train with the framework's own 16-bit attention");
  }
  return reasons;
}

}  // namespace sotto::reference

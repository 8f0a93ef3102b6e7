#include "cuda/sm90/rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda/devices.h"

namespace sotto::sm90 {
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
     "has no ALiBi (alibi_slopes): use backend cpu with slope · (j - i) as an additive mask.dense"},
    {[](const Problem& p) { return p.backward; },
     "has no backward pass (needs_backward): train with the framework's own 16-bit attention"},
    {[](const Problem& p) { return p.dense_mask; },
     "has no arbitrary masks (mask.dense): use a band (causal, window), or backend cpu"},
    {[](const Problem& p) { return p.page_size > 0 || p.batch_idx; },
     "has no caches yet (page_table, batch_idx): give k and v dense or packed"},
    {[](const Problem& p) { return p.num_splits > 1; },
     "does not split keys yet (num_splits > 1): leave num_splits at 0"},
    {[](const Problem& p) { return p.key_bias; },
     "has no Q smoothing (smoothing.key_bias): smooth K alone"},
    {[](const Problem& p) { return p.v_lo; },
     "has no second term of V (v_lo, recipe high): use recipe int8qk"},
    {[](const Problem& p) {
       return p.output == OutputKind::fp8_groups || p.output == OutputKind::nvfp4;
     },
     "has no outputs with a scale per group or NVFP4 yet: use 16 bits, or e4m3 with one scale"},
    {[](const Problem& p) {
       return p.rows_q > (1 << 30) || std::max(p.len_k, p.total_k) > (1 << 30) ||
              p.batch * p.heads_q > (1 << 24) || (p.rows_q / 64 + p.batch) * p.heads_q > (1 << 30);
     },
     "counts rows, keys and tiles in 32 bits: use fewer than 2^30 tokens"},
};

}  // namespace

Reasons unusable() {
  const cuda::Devices& found = cuda::known_devices();
  if (!found.status.empty()) return {found.status};
  for (const cuda::DeviceInfo& device : found.devices) {
    if (device.major == 9) return {};
  }
  return {"needs a Hopper GPU (compute capability 9.0); there is none"};
}

Reasons refuse_device(const Device& device) {
  if (device.type != DeviceType::cuda) {
    return {"computes on Hopper GPUs, but the tensors are on " + to_string(device)};
  }
  for (const cuda::DeviceInfo& info : cuda::known_devices().devices) {
    if (info.index != device.index) continue;
    if (info.major == 9 && info.minor == 0) return {};
    return {fmt::format("needs compute capability 9.0 (Hopper), {} is {}, {}.{}", to_string(device),
                        info.name, info.major, info.minor)};
  }
  return {fmt::format("there is no {} in this process", to_string(device))};
}

Reasons refuse_common(const Problem& problem) {
  Reasons reasons = refuse_device(problem.device);
  for (const Rule& rule : kRules) {
    if (rule.broken(problem)) reasons.emplace_back(rule.reason);
  }
  return reasons;
}

}  // namespace sotto::sm90

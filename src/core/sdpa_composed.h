// sdpa() composed of a backend's channel_mean, quantize and attention: what a backend does that has
// no sdpa of its own. On the host: it reads lengths; elsewhere only where nothing is to be changed.
#pragma once

#include <memory>

#include "sotto/backend.h"

namespace sotto::core {

// Whether the recipe or RoPE makes copies of q, k or v at all.
bool changes_inputs(const SdpaOptions& options);

// RoPE as it applies to the keys.
Rope rope_of_keys(const SdpaOptions& options);

Reasons refuse_composed_sdpa(const Backend& backend, const AttentionArgs& args,
                             const SdpaOptions& options);
std::unique_ptr<const SdpaKernel> compose_sdpa(const Backend& backend, const AttentionArgs& args,
                                               const SdpaOptions& options);

}  // namespace sotto::core

// What backend `sm90` refuses, and what to do instead.
#pragma once

#include "sotto/backend.h"

namespace sotto::sm90 {

// Whatever the request: no driver, no Hopper GPU.
Reasons unusable();
// What no kernel of the backend does.
Reasons refuse_common(const Problem& problem);
Reasons refuse_device(const Device& device);

}  // namespace sotto::sm90

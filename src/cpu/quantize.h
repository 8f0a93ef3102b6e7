// quantize() on the CPU. Arguments are validated.
#pragma once

#include "sotto/quantize.h"

namespace sotto::cpu {

void quantize(const QuantizeArgs& args);

}  // namespace sotto::cpu

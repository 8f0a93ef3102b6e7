// channel_mean() on the CPU. Arguments are validated.
#pragma once

#include "sotto/quantize.h"

namespace sotto::cpu {

void channel_mean(const ChannelMeanArgs& args);

}  // namespace sotto::cpu

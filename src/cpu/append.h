// append_kv() on the CPU. Arguments are validated.
#pragma once

#include "sotto/kv_cache.h"

namespace sotto::cpu {

void append_kv(const AppendKvArgs& args);

}  // namespace sotto::cpu

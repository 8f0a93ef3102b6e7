#include "cpu/dot_product.h"

#include "cpu/targets.h"
// After targets.h.
#include <hwy/highway.h>
#include <hwy/targets.h>

namespace sotto::cpu {

#if HWY_ARCH_X86

bool has_int8_products() {
  // AVX3_DL is what Highway calls AVX-512 with VNNI, VBMI and the like.
  return (hwy::SupportedTargets() & HWY_AVX3_DL) != 0 && __builtin_cpu_supports("avx512vnni");
}

bool has_bf16_products() { return has_int8_products() && __builtin_cpu_supports("avx512bf16"); }

#else

bool has_int8_products() { return false; }
bool has_bf16_products() { return false; }

#endif

}  // namespace sotto::cpu

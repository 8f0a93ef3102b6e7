// Which dot-product instructions may be used that no target of Highway 1.0 promises. None while
// Highway's targets are limited to lesser ones, as tests do.
#pragma once

namespace sotto::cpu {

// AVX512-VNNI (with VBMI): int32 += quads of products of an unsigned and a signed byte.
bool has_int8_products();

// AVX512-BF16 on top of that: fp32 += pairs of products of bf16 numbers.
bool has_bf16_products();

}  // namespace sotto::cpu

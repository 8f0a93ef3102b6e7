// Which targets the SIMD files are compiled for. Include before any header of Highway's.
//
// On x86: AVX3 (AVX-512), AVX2, SSE4 and a scalar fallback; SSSE3 machines take the scalar code.
// On ARM: NEON. SVE's vectors cannot live in arrays, which the micro-kernel is made of.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

// Which targets the SIMD files are compiled for. Include before any header of Highway's.
//
// On x86: AVX3 (AVX-512), AVX2, SSE4 and a scalar fallback; SSSE3 machines take the scalar code.
// A file that wants AVX3_DL (AVX-512 with VNNI, VBMI and more), too, defines HWY_WANT_AVX3_DL. The
// targets above that, which newer Highways have, would only be more of the same code: 0x7f.
// On ARM: NEON. SVE's vectors cannot live in arrays, which the micro-kernel is made of.
#pragma once

#ifdef HWY_WANT_AVX3_DL
#define SOTTO_DISABLED_AVX3 0x7f
#else
#define SOTTO_DISABLED_AVX3 (0x7f | HWY_AVX3_DL)
#endif
// A build with sanitizers keeps the widest and the scalar one: instrumented, each takes minutes.
#ifdef SOTTO_SANITIZED
#define SOTTO_DISABLED_SMALL (HWY_AVX2 | HWY_SSE4)
#else
#define SOTTO_DISABLED_SMALL 0
#endif
#define HWY_DISABLED_TARGETS                                                                   \
  (SOTTO_DISABLED_AVX3 | SOTTO_DISABLED_SMALL | HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | \
   HWY_SVE2_128)

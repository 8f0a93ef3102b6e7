// The warpgroup matrix products that the attention kernels use: D[64, N] (+)= A[64, K] · B[N, K]ᵀ.
//
// B lies in shared memory, named by a descriptor. A lies there too (SS), or in registers (RS). D is
// in registers: thread t of the warpgroup holds, in pairs, rows 16·(t/32) + t%32/4 (+8) and columns
// 8j + 2·(t%4) (+1); pairs in the order (j, row, row + 8). Products are asynchronous: fence before
// the first, commit, and wait before the registers are touched.
#pragma once

#include <cstdint>

namespace sotto::cuda {

// A matrix in shared memory whose rows run along K, as the copy engine leaves it: rows of kSwizzle
// bytes, swizzled in groups of 8 rows. The next 32 bytes along K: + 2.
template <int kSwizzle>
__device__ __forceinline__ std::uint64_t matrix_descriptor(std::uint32_t address) {
  static_assert(kSwizzle == 128 || kSwizzle == 64 || kSwizzle == 32);
  constexpr std::uint64_t kLayout = kSwizzle == 128 ? 1 : kSwizzle == 64 ? 2 : 3;
  constexpr std::uint64_t kGroupStride = 8 * kSwizzle / 16;
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | (std::uint64_t{1} << 16) |
         (kGroupStride << 32) | (kLayout << 62);
}

// A matrix of 16-bit numbers whose rows run along N, cut into slices of 64 columns (128 bytes,
// swizzled) that lie `slice_bytes` apart. The next 8 rows along K: + 64.
__device__ __forceinline__ std::uint64_t matrix_descriptor_along_n(std::uint32_t address,
                                                                   int slice_bytes) {
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) |
         (static_cast<std::uint64_t>(slice_bytes / 16) << 16) |
         (std::uint64_t{8 * 128 / 16} << 32) | (std::uint64_t{1} << 62);
}

// The same matrix from `bytes` further on; 32-bit arithmetic, since the address has 18 bits.
__device__ __forceinline__ std::uint64_t advanced(std::uint64_t descriptor, int bytes) {
  return (descriptor >> 32 << 32) |
         (static_cast<std::uint32_t>(descriptor) + static_cast<std::uint32_t>(bytes / 16));
}

__device__ __forceinline__ void mma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void mma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all but the newest kPending groups are done.
template <int kPending>
__device__ __forceinline__ void mma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler must not move accesses to these registers across this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(std::uint32_t (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}

// Lists of operands: the names %0 … and the constraints of that many registers.
#define SOTTO_MMA_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SOTTO_MMA_NAMES_24 \
  SOTTO_MMA_NAMES_16       \
  ", "                     \
  "%16, %17, %18, %19, %20, %21, %22, %23"
#define SOTTO_MMA_NAMES_32 \
  SOTTO_MMA_NAMES_24       \
  ", "                     \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define SOTTO_MMA_NAMES_36 \
  SOTTO_MMA_NAMES_32       \
  ", "                     \
  "%32, %33, %34, %35"
#define SOTTO_MMA_NAMES_40 \
  SOTTO_MMA_NAMES_36       \
  ", "                     \
  "%36, %37, %38, %39"
#define SOTTO_MMA_NAMES_48 \
  SOTTO_MMA_NAMES_36       \
  ", "                     \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SOTTO_MMA_NAMES_52 \
  SOTTO_MMA_NAMES_48       \
  ", "                     \
  "%48, %49, %50, %51"
#define SOTTO_MMA_NAMES_64 \
  SOTTO_MMA_NAMES_52       \
  ", "                     \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SOTTO_MMA_NAMES_68 \
  SOTTO_MMA_NAMES_64       \
  ", "                     \
  "%64, %65, %66, %67"
#define SOTTO_MMA_NAMES_96                                                           \
  SOTTO_MMA_NAMES_68                                                                 \
  ", "                                                                               \
  "%68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
  "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SOTTO_MMA_NAMES_128                                                              \
  SOTTO_MMA_NAMES_96                                                                     \
  ", "                                                                                   \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "     \
  "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, " \
  "%124, %125, %126, %127"
#define SOTTO_MMA_REGISTERS_16(c, d)                                                        \
  c(d[0]), c(d[1]), c(d[2]), c(d[3]), c(d[4]), c(d[5]), c(d[6]), c(d[7]), c(d[8]), c(d[9]), \
      c(d[10]), c(d[11]), c(d[12]), c(d[13]), c(d[14]), c(d[15])
#define SOTTO_MMA_REGISTERS_24(c, d)                                                        \
  SOTTO_MMA_REGISTERS_16(c, d), c(d[16]), c(d[17]), c(d[18]), c(d[19]), c(d[20]), c(d[21]), \
      c(d[22]), c(d[23])
#define SOTTO_MMA_REGISTERS_32(c, d)                                                        \
  SOTTO_MMA_REGISTERS_24(c, d), c(d[24]), c(d[25]), c(d[26]), c(d[27]), c(d[28]), c(d[29]), \
      c(d[30]), c(d[31])
#define SOTTO_MMA_REGISTERS_36(c, d) \
  SOTTO_MMA_REGISTERS_32(c, d), c(d[32]), c(d[33]), c(d[34]), c(d[35])
#define SOTTO_MMA_REGISTERS_40(c, d) \
  SOTTO_MMA_REGISTERS_36(c, d), c(d[36]), c(d[37]), c(d[38]), c(d[39])
#define SOTTO_MMA_REGISTERS_48(c, d)                                                        \
  SOTTO_MMA_REGISTERS_36(c, d), c(d[36]), c(d[37]), c(d[38]), c(d[39]), c(d[40]), c(d[41]), \
      c(d[42]), c(d[43]), c(d[44]), c(d[45]), c(d[46]), c(d[47])
#define SOTTO_MMA_REGISTERS_52(c, d) \
  SOTTO_MMA_REGISTERS_48(c, d), c(d[48]), c(d[49]), c(d[50]), c(d[51])
#define SOTTO_MMA_REGISTERS_64(c, d)                                                        \
  SOTTO_MMA_REGISTERS_52(c, d), c(d[52]), c(d[53]), c(d[54]), c(d[55]), c(d[56]), c(d[57]), \
      c(d[58]), c(d[59]), c(d[60]), c(d[61]), c(d[62]), c(d[63])
#define SOTTO_MMA_REGISTERS_68(c, d) \
  SOTTO_MMA_REGISTERS_64(c, d), c(d[64]), c(d[65]), c(d[66]), c(d[67])
#define SOTTO_MMA_REGISTERS_96(c, d)                                                            \
  SOTTO_MMA_REGISTERS_68(c, d), c(d[68]), c(d[69]), c(d[70]), c(d[71]), c(d[72]), c(d[73]),     \
      c(d[74]), c(d[75]), c(d[76]), c(d[77]), c(d[78]), c(d[79]), c(d[80]), c(d[81]), c(d[82]), \
      c(d[83]), c(d[84]), c(d[85]), c(d[86]), c(d[87]), c(d[88]), c(d[89]), c(d[90]), c(d[91]), \
      c(d[92]), c(d[93]), c(d[94]), c(d[95])
#define SOTTO_MMA_REGISTERS_128(c, d)                                                         \
  SOTTO_MMA_REGISTERS_96(c, d), c(d[96]), c(d[97]), c(d[98]), c(d[99]), c(d[100]), c(d[101]), \
      c(d[102]), c(d[103]), c(d[104]), c(d[105]), c(d[106]), c(d[107]), c(d[108]), c(d[109]), \
      c(d[110]), c(d[111]), c(d[112]), c(d[113]), c(d[114]), c(d[115]), c(d[116]), c(d[117]), \
      c(d[118]), c(d[119]), c(d[120]), c(d[121]), c(d[122]), c(d[123]), c(d[124]), c(d[125]), \
      c(d[126]), c(d[127])

#define SOTTO_MMA_FLOAT(x) "+f"(x)
#define SOTTO_MMA_WORD(x) "+r"(x)
#define SOTTO_MMA_NEW_FLOAT(x) "=f"(x)
#define SOTTO_MMA_NEW_WORD(x) "=r"(x)

// Operand types: of A and B, then of D.
struct E4m3ToF16;  // D: pairs of halves
struct E4m3ToF32;
struct Int8ToS32;
struct F16ToF32;
struct Bf16ToF32;

// A and B from shared memory. 8-bit: K = 32; 16-bit: K = 16. start() makes D, add() adds to it.
template <class Kind, int kN>
struct MmaSs;

#define SOTTO_MMA_SS(KIND, N, COUNT, A, B, TYPE, C, SHAPE, TAIL)                    \
  template <>                                                                       \
  struct MmaSs<KIND, N> {                                                           \
    static constexpr int kCount = COUNT;                                            \
    static __device__ __forceinline__ void start(TYPE (&d)[COUNT], std::uint64_t a, \
                                                 std::uint64_t b) {                 \
      asm volatile(                                                                 \
          "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"                                \
          "wgmma.mma_async.sync.aligned.m64n" #N SHAPE " {" SOTTO_MMA_NAMES_##COUNT \
          "}, %" #A ", %" #B ", p" TAIL ";\n}\n"                                    \
          : SOTTO_MMA_REGISTERS_##COUNT(SOTTO_MMA_NEW_##C, d)                       \
          : "l"(a), "l"(b));                                                        \
    }                                                                               \
    static __device__ __forceinline__ void add(TYPE (&d)[COUNT], std::uint64_t a,   \
                                               std::uint64_t b) {                   \
      asm volatile(                                                                 \
          "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                \
          "wgmma.mma_async.sync.aligned.m64n" #N SHAPE " {" SOTTO_MMA_NAMES_##COUNT \
          "}, %" #A ", %" #B ", p" TAIL ";\n}\n"                                    \
          : SOTTO_MMA_REGISTERS_##COUNT(SOTTO_MMA_##C, d)                           \
          : "l"(a), "l"(b));                                                        \
    }                                                                               \
  };

SOTTO_MMA_SS(E4m3ToF16, 64, 16, 16, 17, std::uint32_t, WORD, "k32.f16.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_SS(E4m3ToF16, 128, 32, 32, 33, std::uint32_t, WORD, "k32.f16.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_SS(E4m3ToF16, 256, 64, 64, 65, std::uint32_t, WORD, "k32.f16.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_SS(Int8ToS32, 64, 32, 32, 33, std::uint32_t, WORD, "k32.s32.s8.s8", "")
SOTTO_MMA_SS(Int8ToS32, 128, 64, 64, 65, std::uint32_t, WORD, "k32.s32.s8.s8", "")
SOTTO_MMA_SS(F16ToF32, 80, 40, 40, 41, float, FLOAT, "k16.f32.f16.f16", ", 1, 1, 0, 0")
SOTTO_MMA_SS(F16ToF32, 96, 48, 48, 49, float, FLOAT, "k16.f32.f16.f16", ", 1, 1, 0, 0")
SOTTO_MMA_SS(F16ToF32, 128, 64, 64, 65, float, FLOAT, "k16.f32.f16.f16", ", 1, 1, 0, 0")
SOTTO_MMA_SS(Bf16ToF32, 80, 40, 40, 41, float, FLOAT, "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
SOTTO_MMA_SS(Bf16ToF32, 96, 48, 48, 49, float, FLOAT, "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
SOTTO_MMA_SS(Bf16ToF32, 128, 64, 64, 65, float, FLOAT, "k16.f32.bf16.bf16", ", 1, 1, 0, 0")

// A from registers. restart() is start() in the same registers as what was there before: ptxas may
// give each start() its own.
template <class Kind, int kN>
struct MmaRs;

#define SOTTO_MMA_RS(KIND, N, COUNT, A0, A1, A2, A3, B, SHAPE, TAIL)                          \
  template <>                                                                                 \
  struct MmaRs<KIND, N> {                                                                     \
    static constexpr int kCount = COUNT;                                                      \
    static __device__ __forceinline__ void start(float (&d)[COUNT], const std::uint32_t* a,   \
                                                 std::uint64_t b) {                           \
      asm volatile(                                                                           \
          "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"                                          \
          "wgmma.mma_async.sync.aligned.m64n" #N SHAPE " {" SOTTO_MMA_NAMES_##COUNT           \
          "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p" TAIL ";\n}\n"             \
          : SOTTO_MMA_REGISTERS_##COUNT(SOTTO_MMA_NEW_FLOAT, d)                               \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                              \
    }                                                                                         \
    static __device__ __forceinline__ void add(float (&d)[COUNT], const std::uint32_t* a,     \
                                               std::uint64_t b) {                             \
      asm volatile(                                                                           \
          "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                          \
          "wgmma.mma_async.sync.aligned.m64n" #N SHAPE " {" SOTTO_MMA_NAMES_##COUNT           \
          "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p" TAIL ";\n}\n"             \
          : SOTTO_MMA_REGISTERS_##COUNT(SOTTO_MMA_FLOAT, d)                                   \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                              \
    }                                                                                         \
    static __device__ __forceinline__ void restart(float (&d)[COUNT], const std::uint32_t* a, \
                                                   std::uint64_t b) {                         \
      asm volatile(                                                                           \
          "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"                                          \
          "wgmma.mma_async.sync.aligned.m64n" #N SHAPE " {" SOTTO_MMA_NAMES_##COUNT           \
          "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p" TAIL ";\n}\n"             \
          : SOTTO_MMA_REGISTERS_##COUNT(SOTTO_MMA_FLOAT, d)                                   \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                              \
    }                                                                                         \
  };

SOTTO_MMA_RS(E4m3ToF32, 64, 32, 32, 33, 34, 35, 36, "k32.f32.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_RS(E4m3ToF32, 72, 36, 36, 37, 38, 39, 40, "k32.f32.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_RS(E4m3ToF32, 96, 48, 48, 49, 50, 51, 52, "k32.f32.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_RS(E4m3ToF32, 128, 64, 64, 65, 66, 67, 68, "k32.f32.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_RS(E4m3ToF32, 104, 52, 52, 53, 54, 55, 56, "k32.f32.e4m3.e4m3", ", 1, 1")
SOTTO_MMA_RS(E4m3ToF32, 136, 68, 68, 69, 70, 71, 72, "k32.f32.e4m3.e4m3", ", 1, 1")

// B with rows that run along N.
struct F16AlongNToF32;
struct Bf16AlongNToF32;

SOTTO_MMA_RS(F16AlongNToF32, 64, 32, 32, 33, 34, 35, 36, "k16.f32.f16.f16", ", 1, 1, 1")
SOTTO_MMA_RS(F16AlongNToF32, 96, 48, 48, 49, 50, 51, 52, "k16.f32.f16.f16", ", 1, 1, 1")
SOTTO_MMA_RS(F16AlongNToF32, 128, 64, 64, 65, 66, 67, 68, "k16.f32.f16.f16", ", 1, 1, 1")
SOTTO_MMA_RS(F16AlongNToF32, 256, 128, 128, 129, 130, 131, 132, "k16.f32.f16.f16", ", 1, 1, 1")
SOTTO_MMA_RS(Bf16AlongNToF32, 64, 32, 32, 33, 34, 35, 36, "k16.f32.bf16.bf16", ", 1, 1, 1")
SOTTO_MMA_RS(Bf16AlongNToF32, 96, 48, 48, 49, 50, 51, 52, "k16.f32.bf16.bf16", ", 1, 1, 1")
SOTTO_MMA_RS(Bf16AlongNToF32, 128, 64, 64, 65, 66, 67, 68, "k16.f32.bf16.bf16", ", 1, 1, 1")
SOTTO_MMA_RS(Bf16AlongNToF32, 256, 128, 128, 129, 130, 131, 132, "k16.f32.bf16.bf16", ", 1, 1, 1")

}  // namespace sotto::cuda

# The attention kernels of backend sm90: a source file for each, so that they compile apart, and a
# table of them all. Generated into the build folder.

# sotto_sm90_kernel(KIND CONFIG NAME VALUE...): a kernel of src/cuda/sm90/KIND_kernel.h with the
# CONFIG (src/cuda/sm90/kernel.h) of these values.
function(sotto_sm90_kernel kind config name)
  list(JOIN ARGN ", " values)
  set(file ${CMAKE_CURRENT_BINARY_DIR}/sm90/${kind}_${name}.cu)
  file(CONFIGURE OUTPUT ${file} CONTENT [[
#include "cuda/sm90/@kind@_kernel.h"
namespace sotto::sm90 {
namespace {
struct Instance {
  static constexpr @config@ kConfig{@values@};
};
}  // namespace
Kernel<@config@> @kind@_@name@() { return @kind@_instance<Instance>(); }
}  // namespace sotto::sm90
]] @ONLY)
  target_sources(sotto PRIVATE ${file})
  set_property(GLOBAL APPEND PROPERTY SOTTO_SM90_${kind}_KERNELS ${kind}_${name})
endfunction()

# The table of a kind, after all of its kernels.
function(sotto_sm90_table kind config)
  get_property(kernels GLOBAL PROPERTY SOTTO_SM90_${kind}_KERNELS)
  set(declarations)
  foreach(kernel ${kernels})
    string(APPEND declarations "Kernel<${config}> ${kernel}();\n")
  endforeach()
  list(JOIN kernels "(), " calls)
  set(file ${CMAKE_CURRENT_BINARY_DIR}/sm90/${kind}_kernels.cpp)
  file(CONFIGURE OUTPUT ${file} CONTENT [[
#include "cuda/sm90/kernel.h"
namespace sotto::sm90 {
@declarations@
std::span<const Kernel<@config@>> @kind@_kernels() {
  static const Kernel<@config@> kernels[] = {@calls@()};
  return kernels;
}
}  // namespace sotto::sm90
]] @ONLY)
  target_sources(sotto PRIVATE ${file})
endfunction()

function(sotto_fp8_kernel)
  sotto_sm90_kernel(fp8 Fp8Config ${ARGV})
endfunction()
function(sotto_half_kernel)
  sotto_sm90_kernel(half HalfConfig ${ARGV})
endfunction()

# Accumulation::plain has kernels where it is much faster; elsewhere it gets the safe ones.
#                                       int8  qk  v   wg keys stages two_level parts fast
sotto_fp8_kernel(e4m3_64                  false 64  64  3 128 4 true 1 false)
sotto_fp8_kernel(e4m3_64_plain            false 64  64  3 128 4 false 1 false)
sotto_fp8_kernel(e4m3_96                  false 96  96  2 128 4 true 1 false)
sotto_fp8_kernel(e4m3_128                 false 128 128 2 256 3 true 2 false)
sotto_fp8_kernel(e4m3_128_blocks          false 128 128 2 128 4 true 2 false)
sotto_fp8_kernel(e4m3_128_plain           false 128 128 3 128 4 false 1 false)
sotto_fp8_kernel(e4m3_128_fast            false 128 128 2 256 3 true 2 true)
sotto_fp8_kernel(e4m3_128_plain_fast      false 128 128 3 128 4 false 1 true)
sotto_fp8_kernel(e4m3_192                 false 192 128 2 128 4 true 2 false)
sotto_fp8_kernel(e4m3_256                 false 256 256 2 64  4 true 4 false)
sotto_fp8_kernel(int8_64                  true  64  64  2 128 4 true 1 false)
sotto_fp8_kernel(int8_64_plain            true  64  64  2 128 4 false 1 false)
sotto_fp8_kernel(int8_96                  true  96  96  2 128 4 true 1 false)
sotto_fp8_kernel(int8_128                 true  128 128 2 128 4 true 2 false)
sotto_fp8_kernel(int8_128_plain           true  128 128 2 128 5 false 1 false)
sotto_fp8_kernel(int8_128_fast            true  128 128 2 128 4 true 2 true)
sotto_fp8_kernel(int8_128_plain_fast      true  128 128 2 128 5 false 1 true)
sotto_fp8_kernel(int8_192                 true  192 128 2 128 4 true 2 false)
sotto_fp8_kernel(int8_256                 true  256 256 2 64  4 true 4 false)
sotto_sm90_table(fp8 Fp8Config)

# Of the two for head size 128, the second is for few rows.
foreach(dtype bf16 f16)
  set(bf16 false)
  if(dtype STREQUAL "bf16")
    set(bf16 true)
  endif()
  #                              bf16    qk  v   wg keys stages overlap
  sotto_half_kernel(${dtype}_64       ${bf16} 64 64   3 128 4 false)
  sotto_half_kernel(${dtype}_96       ${bf16} 96 96   3 96 3 false)
  sotto_half_kernel(${dtype}_128      ${bf16} 128 128 3 80 4 false)
  sotto_half_kernel(${dtype}_128_few  ${bf16} 128 128 2 128 3 true)
  sotto_half_kernel(${dtype}_192      ${bf16} 192 128 2 128 2 true)
  sotto_half_kernel(${dtype}_256      ${bf16} 256 256 2 80 2 false)
endforeach()
sotto_sm90_table(half HalfConfig)

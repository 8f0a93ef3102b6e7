// Functions of the driver, looked up when they are first needed: a program that links against the
// driver does not start where there is none.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <string>
#include <string_view>

#include "cuda/error.h"
#include "sotto/error.h"

namespace sotto::cuda {

// F: its type for a version of CUDA up to 12.0, from cudaTypedefs.h. Null: the driver is older than
// the function, or there is none.
template <class F>
F driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found) !=
      cudaSuccess) {
    cudaGetLastError();
  }
  return reinterpret_cast<F>(function);
}

// cuda::check() for the driver's own calls.
inline void check_driver(CUresult result, std::string_view while_doing) {
  if (result == CUDA_SUCCESS) return;
  static const auto describe = driver_function<PFN_cuGetErrorString_v6000>("cuGetErrorString");
  const char* text = nullptr;
  if (describe != nullptr) describe(result, &text);
  throw Error(std::string(while_doing) + ": " + (text != nullptr ? text : "unknown error") +
              " (driver error " + std::to_string(result) + ")");
}

// What `call`, of a function of the driver, returns. A thread that has asked nothing of the runtime
// yet has a current device of which the driver does not know: it is told, and called again.
template <class Call>
CUresult call_driver(const Call& call) {
  const CUresult result = call();
  if (result != CUDA_ERROR_INVALID_CONTEXT) return result;
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaSetDevice(device), "making the device's context current");
  return call();
}

}  // namespace sotto::cuda

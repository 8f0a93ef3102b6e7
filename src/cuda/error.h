// CUDA's error codes as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <string_view>

#include "sotto/error.h"

namespace sotto::cuda {

// Takes the result of every call that can fail: check(cudaMemcpyAsync(…), "copying the lengths").
inline void check(cudaError_t error, std::string_view while_doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is told is not left behind for the next call to find
  throw Error(std::string(while_doing) + ": " + cudaGetErrorString(error) + " (" +
              cudaGetErrorName(error) + ")");
}

}  // namespace sotto::cuda

#include "cuda/sm90/launch.h"

#include <algorithm>

#include "cuda/error.h"

namespace sotto::sm90 {

void allow_shared_memory(const void* kernel, int bytes) {
  cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "giving an attention kernel its shared memory");
}

int multiprocessors(int device) {
  int count = 0;
  cuda::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
              "counting multiprocessors");
  return count;
}

void launch(const void* kernel, int threads, int shared_bytes, int multiprocessors, Launch& what,
            cudaStream_t stream) {
  if (what.params.tiles == 0) return;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::min(multiprocessors, what.params.tiles)));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  void* arguments[] = {&what.q, &what.k, &what.v, &what.params};
  cuda::check(cudaLaunchKernelExC(&config, kernel, arguments), "launching an attention kernel");
}

}  // namespace sotto::sm90

#include "cuda/launch.h"

#include "cuda/driver.h"
#include "cuda/error.h"

namespace sotto::cuda {

CUfunction function_of(const void* kernel, int shared_bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "giving a kernel its shared memory");
  cudaFunction_t function = nullptr;
  check(cudaGetFuncBySymbol(&function, kernel), "loading a kernel");
  return function;
}

void launch(CUfunction function, const LaunchShape& shape, void** arguments, cudaStream_t stream) {
  static const auto launch_kernel =
      driver_function<PFN_cuLaunchKernelEx_v11060>("cuLaunchKernelEx");
  if (launch_kernel == nullptr) {
    throw Error("the driver has no cuLaunchKernelEx: it is older than CUDA 11.6");
  }
  CUlaunchAttribute early{};
  early.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  early.value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config{};
  config.gridDimX = static_cast<unsigned>(shape.blocks);
  config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = static_cast<unsigned>(shape.threads);
  config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = static_cast<unsigned>(shape.shared_bytes);
  config.hStream = stream;
  config.attrs = &early;
  config.numAttrs = shape.dependent ? 1 : 0;
  check_driver(call_driver([&] { return launch_kernel(&config, function, arguments, nullptr); }),
               "launching a kernel");
}

}  // namespace sotto::cuda

#include "cuda/sm90/launch.h"

#include <algorithm>

#include "cuda/error.h"
#include "cuda/launch.h"

namespace sotto::sm90 {

int multiprocessors(int device) {
  int count = 0;
  cuda::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
              "counting multiprocessors");
  return count;
}

void launch(CUfunction kernel, int threads, int shared_bytes, int multiprocessors, Launch& what,
            cudaStream_t stream) {
  if (what.params.tiles == 0) return;
  void* arguments[] = {&what.q, &what.k, &what.v, &what.params};
  cuda::launch(kernel,
               {.blocks = std::min(multiprocessors, what.params.tiles),
                .threads = threads,
                .shared_bytes = shared_bytes,
                .dependent = true},
               arguments, stream);
}

}  // namespace sotto::sm90

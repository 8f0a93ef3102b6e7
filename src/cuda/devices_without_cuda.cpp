#include "cuda/devices.h"

namespace sotto::cuda {

Devices devices() {
  Devices result;
  result.status = "this build has no CUDA parts (configure with SOTTO_CUDA=ON and nvcc)";
  return result;
}

const Devices& known_devices() {
  static const Devices known = devices();
  return known;
}

}  // namespace sotto::cuda

#include "bench/gpu.h"
#include "sotto/error.h"

namespace sotto::cli {
namespace {

[[noreturn]] void refuse() { throw Error("this build has no CUDA parts"); }

}  // namespace

void use_gpu(const Device&) { refuse(); }
void upload(void*, const void*, std::size_t) { refuse(); }
Measurement measure_on_gpu(const std::function<void()>&, const MeasureOptions&) { refuse(); }
Roofs gpu_roofs(const Device&) { refuse(); }

}  // namespace sotto::cli

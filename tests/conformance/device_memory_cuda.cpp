#include <cuda.h>

#include <set>
#include <stdexcept>

#include "cuda/error.h"
#include "device_memory.h"

namespace sotto::test {
namespace {

using cuda::check;

// A function of the driver: programs that link its library do not start where there is none.
template <class F>
F* driver_function(const char* name, F*) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found), name);
  if (function == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
  return reinterpret_cast<F*>(function);
}
#define SOTTO_DRIVER_CALL(name, ...) check_driver(driver_function(#name, &name)(__VA_ARGS__), #name)

void check_driver(CUresult result, const char* name) {
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error(std::string(name) + ": driver error " + std::to_string(result));
  }
}

// Addresses without memory, and memory put under some of them.
class SparseBlock {
 public:
  explicit SparseBlock(std::size_t bytes) {
    check(cudaFree(nullptr), "making the device's context");
    properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties_.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = current_gpu()};
    SOTTO_DRIVER_CALL(cuMemGetAllocationGranularity, &chunk_, &properties_,
                      CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    bytes_ = (bytes + chunk_ - 1) / chunk_ * chunk_;
    SOTTO_DRIVER_CALL(cuMemAddressReserve, &base_, bytes_, 0, 0, 0);
  }
  ~SparseBlock() {
    cudaDeviceSynchronize();
    try {
      for (const std::size_t chunk : backed_) {
        SOTTO_DRIVER_CALL(cuMemUnmap, base_ + chunk * chunk_, chunk_);
      }
      SOTTO_DRIVER_CALL(cuMemAddressFree, base_, bytes_);
    } catch (const std::exception&) {
      // After a fault every call fails; the test that met it has said so.
    }
  }
  SparseBlock(const SparseBlock&) = delete;
  SparseBlock& operator=(const SparseBlock&) = delete;

  void back(const Piece& piece) {
    for (std::size_t chunk = piece.offset / chunk_;
         chunk <= (piece.offset + piece.bytes - 1) / chunk_; ++chunk) {
      if (!backed_.insert(chunk).second) continue;
      const CUdeviceptr address = base_ + chunk * chunk_;
      CUmemGenericAllocationHandle memory{};
      SOTTO_DRIVER_CALL(cuMemCreate, &memory, chunk_, &properties_, 0);
      SOTTO_DRIVER_CALL(cuMemMap, address, chunk_, 0, memory, 0);
      SOTTO_DRIVER_CALL(cuMemRelease, memory);  // it lives as long as the mapping
      const CUmemAccessDesc access{.location = properties_.location,
                                   .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
      SOTTO_DRIVER_CALL(cuMemSetAccess, address, chunk_, &access, 1);
    }
  }
  std::byte* data() const { return reinterpret_cast<std::byte*>(base_); }

 private:
  CUmemAllocationProp properties_{};
  std::size_t chunk_ = 0, bytes_ = 0;
  CUdeviceptr base_ = 0;
  std::set<std::size_t> backed_;
};

}  // namespace

int current_gpu() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  return device;
}

std::shared_ptr<std::byte> allocate_on_gpu(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "allocating a test's memory");
  return {static_cast<std::byte*>(memory), [](std::byte* data) { cudaFree(data); }};
}

std::shared_ptr<std::byte> reserve_on_gpu(std::size_t bytes, const std::vector<Piece>& pieces) {
  const auto block = std::make_shared<SparseBlock>(bytes);
  for (const Piece& piece : pieces) block->back(piece);
  return {block, block->data()};
}

void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "copying a test's memory");
  // Within a device the call returns before the copy is done.
  check(cudaStreamSynchronize(nullptr), "copying a test's memory");
}

void fill_bytes(std::byte* device_memory, int value, std::size_t bytes) {
  check(cudaMemset(device_memory, value, bytes), "filling a test's memory");
}

void finish_gpu() { check(cudaDeviceSynchronize(), "what was run on the GPU"); }

}  // namespace sotto::test

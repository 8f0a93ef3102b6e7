#include "cuda/sm90/tensor_map.h"

#include <fmt/format.h>

#include <array>

#include "cuda/driver.h"

namespace sotto::sm90 {
namespace {

CUtensorMapDataType data_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case Dtype::f16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  }
}

CUtensorMapSwizzle swizzle(std::int64_t bytes) {
  return bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                       : CU_TENSOR_MAP_SWIZZLE_32B;
}

// sizes and strides: fastest dimension first; strides in elements, the first (1) left out.
// A tensor without elements may have no address: it gets one that is never read.
template <std::size_t kRank>
CUtensorMap encode(const Tensor& tensor, void* if_empty, std::array<std::int64_t, kRank> sizes,
                   std::array<std::int64_t, kRank - 1> strides, std::array<cuuint32_t, kRank> box) {
  std::array<cuuint64_t, kRank> dims;
  std::array<cuuint64_t, kRank - 1> steps;
  std::array<cuuint32_t, kRank> every;
  every.fill(1);
  const std::int64_t bytes = dtype_size(tensor.dtype);
  for (std::size_t i = 0; i < kRank; ++i) {
    dims[i] = static_cast<cuuint64_t>(std::max<std::int64_t>(sizes[i], 1));
    // A stride along one element is of no consequence, but must be legal.
    const bool matters = sizes[i] > 1 && tensor.numel() > 0;
    if (i > 0) steps[i - 1] = matters ? static_cast<cuuint64_t>(strides[i - 1] * bytes) : 16;
  }
  static const auto encode_tiled =
      cuda::driver_function<PFN_cuTensorMapEncodeTiled_v12000>("cuTensorMapEncodeTiled");
  if (encode_tiled == nullptr) {
    throw Error("the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12.0");
  }
  CUtensorMap map;
  const CUresult result = cuda::call_driver([&] {
    return encode_tiled(&map, data_type(tensor.dtype), kRank,
                        tensor.numel() == 0 ? if_empty : tensor.data, dims.data(), steps.data(),
                        box.data(), every.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                        swizzle(box[0] * bytes), CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  });
  if (result != CUDA_SUCCESS) {
    throw Error(fmt::format("the copy engine cannot read {}: cuTensorMapEncodeTiled returned {}",
                            to_string(tensor), static_cast<int>(result)));
  }
  return map;
}

}  // namespace

CUtensorMap head_map(const Tensor& t, int columns, int rows, void* if_empty) {
  const bool packed = t.rank == 3;
  const int token = packed ? 0 : 1, head = token + 1, dim = head + 1;
  return encode<4>(t, if_empty, {t.size(dim), t.size(token), t.size(head), packed ? 1 : t.size(0)},
                   {t.stride(token), t.stride(head), packed ? 0 : t.stride(0)},
                   {static_cast<cuuint32_t>(columns), static_cast<cuuint32_t>(rows), 1, 1});
}

CUtensorMap transposed_v_map(const Tensor& v, int tokens, int rows, void* if_empty) {
  return encode<3>(v, if_empty, {v.size(2), v.size(1), v.size(0)}, {v.stride(1), v.stride(0)},
                   {static_cast<cuuint32_t>(tokens), static_cast<cuuint32_t>(rows), 1});
}

bool has_aligned_rows(const Tensor& t) {
  const std::int64_t bytes = dtype_size(t.dtype);
  bool aligned = reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  for (int d = 0; d + 1 < t.rank; ++d) {
    aligned &= t.size(d) <= 1 || t.stride(d) * bytes % 16 == 0;
  }
  return aligned;
}

}  // namespace sotto::sm90

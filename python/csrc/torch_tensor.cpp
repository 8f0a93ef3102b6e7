#include "torch_tensor.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

// Only torch with CUDA has it: without, the address is null, and so is every tensor's need for it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(
    std::int32_t device_index, void** ret_stream);

namespace sotto::bridge {
namespace {

struct DtypePair {
  Dtype ours;
  std::int32_t torchs;
};

std::span<const DtypePair> known_dtypes() {
  static const std::array kPairs{DtypePair{Dtype::f32, aoti_torch_dtype_float32()},
                                 DtypePair{Dtype::f16, aoti_torch_dtype_float16()},
                                 DtypePair{Dtype::bf16, aoti_torch_dtype_bfloat16()},
                                 DtypePair{Dtype::e4m3, aoti_torch_dtype_float8_e4m3fn()},
                                 DtypePair{Dtype::i8, aoti_torch_dtype_int8()},
                                 DtypePair{Dtype::i32, aoti_torch_dtype_int32()},
                                 DtypePair{Dtype::boolean, aoti_torch_dtype_bool()},
                                 DtypePair{Dtype::ue8m0, torch_dtype_float8_e8m0fnu()},
                                 DtypePair{Dtype::e2m1x2, torch_dtype_float4_e2m1fn_x2()}};
  return kPairs;
}

// As torch's own messages have it: "Double".
std::string torch_name(std::int32_t code) {
  using torch::stable::detail::from, torch::stable::detail::to;
  try {
    return torch::headeronly::toString(to<torch::headeronly::ScalarType>(from(code)));
  } catch (const std::runtime_error&) {
    return "one that torch's stable interface has no name for";
  }
}

// What an argument of this name may be.
std::string_view dtypes_of(std::string_view argument) {
  const auto has = [&](auto... parts) {
    return ((argument.find(parts) != std::string_view::npos) || ...);
  };
  if (has("seqlens", "seqused", "cu_blocks", "positions", "page_table", "batch_idx"))
    return "int32";
  if (has("mask")) return "bool, float32, float16 or bfloat16";
  if (has("group_scale")) return "float32, float8_e4m3fn or float8_e8m0fnu";
  if (has("descale", "rope", "sinks", "mean", "lse", "output.scale", "alibi_slopes"))
    return "float32";
  if (has("_lo")) return "float8_e4m3fn";
  if (has("k_cache")) return kEveryDtype;
  if (has("v_cache")) return "float32, float16, bfloat16 or float8_e4m3fn";
  if (has("out")) return "float32, float16, bfloat16, float8_e4m3fn or float4_e2m1fn_x2";
  return "float32, float16 or bfloat16";
}

std::int32_t torch_code(Dtype dtype) {
  const auto all = known_dtypes();
  return std::find_if(all.begin(), all.end(),
                      [&](const DtypePair& pair) { return pair.ours == dtype; })
      ->torchs;
}

Device device_of(const TorchTensor& tensor) {
  if (tensor.is_cuda()) return {DeviceType::cuda, tensor.get_device_index()};
  return {};
}

std::string text_of(std::span<const std::int64_t> sizes, Dtype dtype, const Device& device) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.rank = static_cast<int>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), tensor.shape.begin());
  return to_string(tensor) + " on " + to_string(device);
}

TorchTensor empty_strided(std::span<const std::int64_t> sizes,
                          std::span<const std::int64_t> strides, Dtype dtype,
                          const Device& device) {
  const bool cuda = device.type == DeviceType::cuda;
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(static_cast<std::int64_t>(sizes.size()), sizes.data(),
                               strides.data(), torch_code(dtype),
                               cuda ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(),
                               device.index, &handle) != TORCH_SUCCESS) {
    throw Error("torch has no memory for " + text_of(sizes, dtype, device));
  }
  return TorchTensor(handle);
}

Tensor::Dims contiguous_strides(std::span<const std::int64_t> sizes) {
  Tensor::Dims strides{};
  std::int64_t step = 1;
  for (std::size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    step *= std::max<std::int64_t>(sizes[d], 1);
  }
  return strides;
}

}  // namespace

Dtype dtype_from(std::string_view argument, std::int32_t code, std::string_view dtypes) {
  for (const DtypePair& pair : known_dtypes())
    if (pair.torchs == code) return pair.ours;
  throw InvalidArgument(std::string(argument),
                        "dtype must be " +
                            std::string(dtypes.empty() ? dtypes_of(argument) : dtypes) + ", got " +
                            torch_name(code));
}

Tensor view(std::string_view argument, const TorchTensor& tensor, std::string_view dtypes) {
  const std::int64_t rank = tensor.dim();
  if (rank > Tensor::kMaxRank) {
    throw InvalidArgument(std::string(argument),
                          "must have at most 4 dimensions, got " + std::to_string(rank));
  }
  std::int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  Tensor seen;
  seen.data = tensor.data_ptr();
  seen.dtype = dtype_from(argument, dtype, dtypes);
  seen.device = device_of(tensor);
  seen.rank = static_cast<int>(std::max<std::int64_t>(rank, 1));
  seen.shape[0] = seen.strides[0] = 1;
  std::copy_n(tensor.sizes().data(), rank, seen.shape.begin());
  std::copy_n(tensor.strides().data(), rank, seen.strides.begin());
  return seen;
}

TorchTensor allocate(std::span<const std::int64_t> sizes, Dtype dtype, const Device& device) {
  const Tensor::Dims strides = contiguous_strides(sizes);
  return empty_strided(sizes, {strides.data(), sizes.size()}, dtype, device);
}

TorchTensor allocate_transposed(std::span<const std::int64_t> sizes, Dtype dtype,
                                const Device& device, std::size_t dim_a, std::size_t dim_b) {
  Tensor::Dims strides = contiguous_strides(sizes), exchanged{};
  std::copy(sizes.begin(), sizes.end(), exchanged.begin());
  std::swap(exchanged[dim_a], exchanged[dim_b]);
  std::swap(strides[dim_a], strides[dim_b]);
  return empty_strided({exchanged.data(), sizes.size()}, {strides.data(), sizes.size()}, dtype,
                       device);
}

Stream current_stream(const Device& device) {
  Stream stream;
  if (device.type == DeviceType::cuda) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device.index, &stream.handle));
  }
  return stream;
}

TorchWorkspace::TorchWorkspace(std::size_t bytes, const Device& device) : bytes_(bytes) {
  if (bytes == 0) return;
  const std::array sizes{static_cast<std::int64_t>(bytes)};
  memory_ = allocate(sizes, Dtype::i8, device);
}

Workspace TorchWorkspace::span() const {
  if (!memory_) return {};
  return {static_cast<std::byte*>(memory_->data_ptr()), bytes_};
}

}  // namespace sotto::bridge

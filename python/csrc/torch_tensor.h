// Tensors, memory and streams of torch, as the library sees them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "sotto/attention.h"
#include "sotto/tensor.h"

namespace sotto::bridge {

using TorchTensor = torch::stable::Tensor;

// A view of the same memory; a scalar (no dimensions) becomes one of one element. Throws
// InvalidArgument for a dtype that the library does not know and for more than four dimensions.
// That names `dtypes`, which the argument may have; empty: what arguments of its name may.
Tensor view(std::string_view argument, const TorchTensor& tensor, std::string_view dtypes = {});

// Of the arguments that may be quantised, too.
inline constexpr std::string_view kEveryDtype = "float32, float16, bfloat16, float8_e4m3fn or int8";

// Of a number by which torch's C interface calls a dtype. Throws as view() does.
Dtype dtype_from(std::string_view argument, std::int32_t code, std::string_view dtypes = {});

// New memory of torch's allocator, contiguous in the order of `sizes`.
TorchTensor allocate(std::span<const std::int64_t> sizes, Dtype dtype, const Device& device);
// The same with two dimensions exchanged in what is returned.
TorchTensor allocate_transposed(std::span<const std::int64_t> sizes, Dtype dtype,
                                const Device& device, std::size_t dim_a, std::size_t dim_b);

// torch's current stream of the device.
Stream current_stream(const Device& device);

// Memory for one run of a plan. The allocator hands it out again only in the stream's order.
class TorchWorkspace {
 public:
  TorchWorkspace(std::size_t bytes, const Device& device);
  Workspace span() const;

 private:
  std::size_t bytes_;
  std::optional<TorchTensor> memory_;
};

}  // namespace sotto::bridge

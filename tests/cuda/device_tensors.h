// A tensor with a copy on the host and one on the GPU, for tests of single kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <vector>

#include "../unit/host_tensor.h"
#include "cuda/error.h"

namespace sotto::test {

class DeviceTensor {
 public:
  DeviceTensor() = default;
  // `padding` elements lie between rows, which are contiguous, and before the first.
  DeviceTensor(Dtype dtype, const std::vector<std::int64_t>& shape, std::int64_t padding = 0)
      : shape_(shape), padding_(padding), host_(dtype, shape) {
    std::int64_t pitch = shape.back() + padding;
    view_ = host_.view();
    view_.strides[shape.size() - 1] = 1;
    for (std::size_t d = shape.size() - 1; d-- > 0;) {
      view_.strides[d] = pitch;
      pitch *= shape[d];
    }
    bytes_ = static_cast<std::size_t>((pitch + padding) * dtype_size(dtype));
    void* data = nullptr;
    cuda::check(cudaMalloc(&data, bytes_ + 16), "cudaMalloc");
    memory_.reset(static_cast<std::byte*>(data), [](void* p) { cudaFree(p); });
    view_.data = static_cast<std::byte*>(data) + padding * dtype_size(dtype);
    view_.device = {DeviceType::cuda, 0};
  }
  explicit DeviceTensor(const std::vector<std::int32_t>& values)
      : DeviceTensor(Dtype::i32, {static_cast<std::int64_t>(values.size())}) {
    std::copy(values.begin(), values.end(), static_cast<std::int32_t*>(host_.view().data));
    upload();
  }

  template <class F>
  void fill(F&& f) {
    for (std::int64_t i = 0; i < host_.numel(); ++i) host_.set(i, f(i));
    upload();
  }
  // Every byte of the GPU's copy becomes 0xee.
  void spoil() { cuda::check(cudaMemset(memory_.get(), 0xee, bytes_), "cudaMemset"); }
  void reshape(const std::vector<std::int64_t>& shape) {
    const Tensor reshaped = HostTensor(view_.dtype, shape).view();
    shape_ = shape;
    view_.rank = reshaped.rank;
    view_.shape = reshaped.shape;
    view_.strides = reshaped.strides;
  }

  const Tensor& device() const { return view_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  // What was uploaded.
  float get(std::int64_t i) const { return host_.get(i); }
  Tensor host_view() const { return host_; }
  // What the GPU has now, of an unpadded tensor.
  template <class T>
  std::vector<T> host() const {
    std::vector<T> values(bytes_ / sizeof(T));
    cuda::check(cudaMemcpy(values.data(), view_.data, values.size() * sizeof(T), cudaMemcpyDefault),
                "cudaMemcpy");
    return values;
  }

 private:
  void upload() {
    const std::int64_t row = shape_.back(), rows = row > 0 ? host_.numel() / row : 0;
    const auto size = static_cast<std::size_t>(dtype_size(view_.dtype));
    if (rows == 0) return;
    cuda::check(
        cudaMemcpy2D(view_.data, static_cast<std::size_t>(row + padding_) * size, host_.view().data,
                     static_cast<std::size_t>(row) * size, static_cast<std::size_t>(row) * size,
                     static_cast<std::size_t>(rows), cudaMemcpyDefault),
        "cudaMemcpy2D");
  }

  std::vector<std::int64_t> shape_;
  std::int64_t padding_ = 0;
  HostTensor host_;
  Tensor view_;
  std::size_t bytes_ = 0;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace sotto::test

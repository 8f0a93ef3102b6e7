// A tensor with its own memory, for tests: any dtype, read and written as floats.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "core/element.h"
#include "sotto/tensor.h"

namespace sotto::test {

class HostTensor {
 public:
  // Bytes that nobody has written look like this.
  static constexpr std::byte kUntouched{0xa5};

  HostTensor() = default;
  HostTensor(Dtype dtype, const std::vector<std::int64_t>& shape) {
    std::int64_t numel = 1;
    for (std::int64_t size : shape) numel *= size;
    bytes_.assign(static_cast<std::size_t>(numel * dtype_size(dtype)) + 64, kUntouched);
    view_.data = bytes_.data();
    view_.dtype = dtype;
    view_.rank = static_cast<int>(shape.size());
    std::int64_t stride = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      view_.shape[d] = shape[d];
      view_.strides[d] = stride;
      stride *= shape[d];
    }
  }
  HostTensor(Dtype dtype, const std::vector<std::int64_t>& shape, const std::vector<float>& values)
      : HostTensor(dtype, shape) {
    for (std::size_t i = 0; i < values.size(); ++i) set(static_cast<std::int64_t>(i), values[i]);
  }
  HostTensor(const HostTensor& other) : bytes_(other.bytes_), view_(other.view_) {
    view_.data = bytes_.data();
  }
  HostTensor& operator=(const HostTensor& other) {
    bytes_ = other.bytes_;
    view_ = other.view_;
    view_.data = bytes_.data();
    return *this;
  }

  static HostTensor ints(const std::vector<std::int32_t>& values) {
    HostTensor t(Dtype::i32, {static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), static_cast<std::int32_t*>(t.view_.data));
    return t;
  }
  static HostTensor normal(Dtype dtype, const std::vector<std::int64_t>& shape,
                           std::mt19937& random, float sigma = 1.0f) {
    HostTensor t(dtype, shape);
    std::normal_distribution<float> distribution(0.0f, sigma);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.set(i, distribution(random));
    return t;
  }

  Tensor& view() { return view_; }
  operator const Tensor&() const { return view_; }  // NOLINT(google-explicit-constructor)
  std::int64_t numel() const { return view_.numel(); }

  // By place in memory.
  float get(std::int64_t i) const {
    float value;
    core::load_row(view_.dtype, view_.at(i), 1, &value);
    return value;
  }
  void set(std::int64_t i, float value) {
    core::with_element_type(view_.dtype, [&]<class T>(T) {
      reinterpret_cast<T*>(view_.at(i))[0] = static_cast<T>(value);
    });
  }
  std::vector<float> values() const {
    std::vector<float> all;
    for (std::int64_t i = 0; i < numel(); ++i) all.push_back(get(i));
    return all;
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  // Nothing was written behind the last element.
  bool end_is_untouched() const {
    for (std::size_t i = bytes_.size() - 64; i < bytes_.size(); ++i) {
      if (bytes_[i] != kUntouched) return false;
    }
    return true;
  }

 private:
  std::vector<std::byte> bytes_;
  Tensor view_;
};

}  // namespace sotto::test

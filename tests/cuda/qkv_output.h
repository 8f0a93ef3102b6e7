// What sdpa()'s quantiser wrote, read by the layout that cuda/quantize/qkv.h describes.
#pragma once

#include <gtest/gtest.h>

#include "cuda/error.h"
#include "cuda/quantize/qkv.h"
#include "qkv_data.h"

namespace sotto::test {

// Runs it twice.
class QkvOutput {
 public:
  explicit QkvOutput(const QkvData& data) : data_(data) {
    const cuda::QkvQuantizer quantizer(data.args, data.options, data.problem);
    workspace_ = DeviceTensor(Dtype::e4m3, {static_cast<std::int64_t>(quantizer.workspace_size())});
    workspace_.spoil();
    DeviceTensor counter(Dtype::i32, {1});
    counter.spoil();
    auto* memory = static_cast<std::byte*>(workspace_.device().data);
    quantizer.run(data.args, data.options, memory,
                  static_cast<std::uint32_t*>(counter.device().data), nullptr);
    cuda::check(cudaDeviceSynchronize(), "quantiser");
    EXPECT_EQ(counter.host<std::uint32_t>()[0], 0u);
    operands_ = quantizer.operands(memory);
    const std::vector<std::uint8_t> once = workspace_.host<std::uint8_t>();
    quantizer.run(data.args, data.options, memory, nullptr, nullptr);
    cuda::check(cudaDeviceSynchronize(), "quantiser");
    bytes_ = workspace_.host<std::uint8_t>();
    EXPECT_TRUE(once == bytes_) << "a second run gave other bits";
  }

  // Of q or k.
  std::uint8_t code(Operand operand, int b, int head, int token, int channel) const {
    const Tensor& t = operand == Operand::q ? operands_.q : operands_.k;
    const std::int64_t row = data_.c.packed ? (data_.first(operand, b) + token) * t.stride(0)
                                            : b * t.stride(0) + token * t.stride(1);
    return at<std::uint8_t>(t, row + head * t.stride(data_.c.packed ? 1 : 2) + channel);
  }
  std::uint8_t v_code(int b, int head, int token, int channel) const {
    const Tensor& t = operands_.v;
    const int key = token % 128, parts = key / 8 % 2, pair = key / 2 % 4;
    const int place = key / 16 * 16 + 4 * pair + 2 * parts + key % 2;
    return at<std::uint8_t>(t, v_row(b, head) * t.stride(0) + channel * t.stride(1) + v_begin(b) +
                                   token / 128 * 128 + place);
  }
  bool is_bad_key(int b, int head, int token) const {
    const std::int64_t bit = v_row(b, head) * operands_.v.stride(1) + v_begin(b) + token;
    return at(operands_.bad_keys, bit / 32) >> bit % 32 & 1;
  }
  float scale(Operand operand, int b, int head, int token) const {
    const Scale& scale = operand == Operand::q   ? operands_.q_scale
                         : operand == Operand::k ? operands_.k_scale
                                                 : operands_.v_scale;
    const int heads = operand == Operand::q ? data_.c.heads_q : data_.c.heads_kv;
    const Tensor& t = scale.values;
    const bool packed = data_.c.packed;
    switch (scale.granularity) {
      case Granularity::kv_head:
        return at<float>(t, b * t.stride(0) + head / (heads / t.size(1)) * t.stride(1));
      case Granularity::token:
        return at<float>(
            t, packed ? (data_.first(operand, b) + token) * t.stride(0) + head * t.stride(1)
                      : b * t.stride(0) + token * t.stride(1) + head * t.stride(2));
      default:
        return at<float>(t, packed ? head * t.stride(0) + v_begin(b) / 128 + token / 128
                                   : b * t.stride(0) + head * t.stride(1) + token / 128);
    }
  }
  float row_bias(int b, int head, int token) const {
    const Tensor& t = operands_.row_bias;
    return at<float>(t, data_.c.packed ? head * t.stride(0) + data_.first(Operand::q, b) + token
                                       : b * t.stride(0) + head * t.stride(1) + token);
  }
  float v_mean(int b, int head, int channel) const {
    const Tensor& t = operands_.v_mean;
    return at<float>(t, b * t.stride(0) + head * t.stride(1) + channel);
  }

 private:
  std::int64_t v_row(int b, int head) const {
    return data_.c.packed ? head : b * data_.c.heads_kv + head;
  }
  std::int64_t v_begin(int b) const {
    return data_.c.packed ? (data_.first(Operand::v, b) / 128 + b) * 128 : 0;
  }
  template <class T>
  T at(const Tensor& tensor, std::int64_t offset) const {
    return at(static_cast<const T*>(tensor.data), offset);
  }
  template <class T>
  T at(const T* data, std::int64_t offset) const {
    const auto begin = reinterpret_cast<const std::uint8_t*>(data) -
                       static_cast<const std::uint8_t*>(workspace_.device().data);
    T value;
    std::memcpy(&value, bytes_.data() + begin + offset * static_cast<std::int64_t>(sizeof(T)),
                sizeof(T));
    return value;
  }

  const QkvData& data_;
  DeviceTensor workspace_;
  cuda::QkvOperands operands_;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace sotto::test

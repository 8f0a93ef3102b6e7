// A legal request to spoil, and what must happen then.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "host_tensor.h"
#include "sotto/sotto.h"

namespace sotto::test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max() / 2;

// Runs something that must throw; the output must stay as it was.
template <class Run>
void expect_invalid(const HostTensor& out, const std::string& argument, const std::string& words,
                    Run&& run) {
  const std::vector<std::byte> before = out.bytes();
  try {
    run();
    ADD_FAILURE() << "nothing was thrown; expected " << argument << ": …" << words;
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), argument) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos)
        << error.what() << "\n  should say: " << words;
    EXPECT_EQ(std::string(error.what()).find(argument + ": "), 0u) << error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "expected InvalidArgument of " << argument << ", got " << error.what();
  }
  EXPECT_TRUE(out.bytes() == before) << "something was written";
}

// A legal request that a case spoils.
struct Request {
  HostTensor q{Dtype::f32, {2, 5, 4, 64}}, k{Dtype::f32, {2, 7, 2, 64}}, v = k;
  HostTensor out{Dtype::f32, {2, 5, 4, 64}}, lse{Dtype::f32, {2, 4, 5}};
  // More than any case needs.
  HostTensor floats{Dtype::f32, {4096}}, ints{Dtype::i32, {4096}}, bytes{Dtype::e4m3, {65536}};
  HostTensor lengths = HostTensor::ints({3, 2}), offsets = HostTensor::ints({0, 2, 5});
  AttentionArgs args{.q = q, .k = k, .v = v, .out = out, .lse = lse};

  Request() {
    for (HostTensor* t : {&q, &k, &v, &floats}) {
      for (std::int64_t i = 0; i < t->numel(); ++i) t->set(i, 0.25f);
    }
    std::fill_n(static_cast<std::int32_t*>(ints.view().data), ints.numel(), 0);
  }
  Request(const Request&) = delete;

  Tensor table(std::initializer_list<std::int64_t> shape) {
    return Tensor(floats.view().data, Dtype::f32, shape);
  }
  Tensor int_table(std::initializer_list<std::int64_t> shape) {
    return Tensor(ints.view().data, Dtype::i32, shape);
  }
  Tensor codes(Dtype dtype, std::initializer_list<std::int64_t> shape) {
    return Tensor(bytes.view().data, dtype, shape);
  }
  // Changes q, k and v to an 8-bit dtype.
  void quantize_all(Dtype qk) {
    args.q = codes(qk, {2, 5, 4, 64});
    args.k = codes(qk, {2, 7, 2, 64});
    args.v = codes(Dtype::e4m3, {2, 7, 2, 64});
  }
  // Changes q, k, v and out to two packed sequences of 2 and 3 tokens.
  void pack_all() {
    args.q = table({5, 4, 8 * 2});
    args.k = args.v = table({5, 2, 16});
    args.out = Tensor(out.view().data, Dtype::f32, {5, 4, 16});
    args.lse = {};
    args.seq.cu_seqlens_q = args.seq.cu_seqlens_k = offsets;
  }
  // Changes k and v to 4 pages of 3 tokens.
  void page_all() {
    args.k = args.v = Tensor(k.view().data, Dtype::f32, {4, 3, 2, 64});
    args.cache.page_table = int_table({2, 2});
    args.seq.seqused_k = lengths;
  }
};

}  // namespace sotto::test

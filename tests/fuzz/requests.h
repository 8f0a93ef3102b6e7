// Requests from a fuzzer's bytes: legal ones, and the same with some members spoiled.
#pragma once

#include <vector>

#include "input.h"
#include "memory.h"
#include "sotto/sotto.h"

namespace sotto::fuzz {

class Requests {
 public:
  Requests(Input& input, Memory& memory) : in_(input), memory_(memory) {}

  enum class For { attention, sdpa };
  AttentionArgs attention(For whom = For::attention);
  // Options that fit the request that attention(For::sdpa) made last.
  SdpaOptions sdpa_options();
  QuantizeArgs quantize();
  ChannelMeanArgs channel_mean();
  AppendKvArgs append();
  MergeArgs merge();

  // What lies in lengths, offsets and tables changes from one run of a plan to the next.
  void change_contents(AttentionArgs& args);

 private:
  // Tokens of one operand, ragged or not.
  struct Tokens {
    std::int64_t batch = 0, len = 0, rows = 0;  // rows: of the first dimension, where packed
    std::vector<std::int32_t> lengths, offsets;
    bool packed = false;
  };

  Tokens tokens(std::int64_t batch, std::int64_t most, bool packed);
  Tensor tensor(Dtype dtype, std::vector<std::int64_t> shape);
  Tensor token_tensor(Dtype dtype, const Tokens& tokens, std::int64_t heads, std::int64_t dim);
  Tensor ints(const std::vector<std::int32_t>& values);
  Tensor table(std::int64_t rows, std::int64_t columns, std::int64_t below);
  Scale scale(const Tensor& of, const Tokens& tokens, std::int64_t heads_kv);
  Tensor head_major(const Tokens& tokens, std::int64_t heads);
  Rope rope(const Tokens& tokens, std::int64_t dim);
  OutputQuant output(const Tensor& out, std::int64_t rows, std::int64_t heads, std::int64_t dim);
  std::int64_t head_size() { return 16 * in_.between(1, 4); }
  Dtype real() { return in_.one_of({Dtype::f32, Dtype::bf16, Dtype::f16}); }

  void spoil(Tensor& tensor);
  void spoil(std::int64_t& number) { number = in_.odd_number(); }
  void spoil(float& number) { number = in_.bits<float>(); }
  // Spoils some of an operation's tensors.
  template <class Args>
  void spoil_some(Args& args);

  Input& in_;
  Memory& memory_;
  Tokens q_, k_;  // of the last attention()
  std::int64_t dim_qk_ = 0;
};

}  // namespace sotto::fuzz

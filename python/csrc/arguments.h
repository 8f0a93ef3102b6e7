// The arguments of one call of an op, taken off torch's stack in the order of its schema.
//
// Groups of arguments that several ops share are here with their part of the schema, so that the
// two stay one.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sotto/attention.h"
#include "sotto/quantize.h"
#include "torch_tensor.h"

namespace sotto::bridge {

// Owns what it takes for as long as it lives. Everything must be taken, or what torch handed over
// leaks: what is wrong with an argument is therefore kept until check().
class Arguments {
 public:
  explicit Arguments(StableIValue* stack) : next_(stack) {}

  // `dtypes`: which the argument may have, for who gave one that the library does not know.
  Tensor tensor(std::string_view argument, std::string_view dtypes = {});  // Tensor
  Tensor optional_tensor(std::string_view argument);               // Tensor?; absent: an absent one
  std::vector<Tensor> tensors(std::string_view argument);          // Tensor[]
  Dtype dtype(std::string_view argument);                          // ScalarType
  std::optional<Dtype> optional_dtype(std::string_view argument);  // ScalarType?
  std::int64_t integer();                                          // int, SymInt
  float number();                                                  // float
  std::optional<float> optional_number();                          // float?
  bool flag();                                                     // bool
  std::string_view text();                                         // str
  std::string_view optional_text();                                // str?; absent: empty

  // Throws the first thing that was wrong.
  void check() const;
  // Runs what may throw InvalidArgument, and keeps that for check().
  template <class F>
  void defer(F&& f);

 private:
  Tensor keep(std::string_view argument, TorchTensor tensor, std::string_view dtypes = {});
  std::string_view keep(std::string text);

  StableIValue* next_;
  std::deque<TorchTensor> tensors_;
  std::deque<std::string> texts_;
  std::optional<InvalidArgument> error_;
};

template <class F>
void Arguments::defer(F&& f) {
  try {
    f();
  } catch (const InvalidArgument& error) {
    if (!error_) error_ = error;
  }
}

// What attention and sdpa both take, beside q, k and v.
inline constexpr const char* kRequestSchema =
    "float? scale=None, float softcap=0.0, SymInt left=-1, SymInt right=-1, "
    "bool bottom_right=False, Tensor? attn_mask=None, Tensor? sinks=None, "
    "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, Tensor? seqused_q=None, "
    "Tensor? seqused_k=None, SymInt max_len_q=0, SymInt max_len_k=0, float dropout_p=0.0, "
    "bool needs_backward=False, Tensor? output_scale=None, str? backend=None";
void take_request(Arguments& in, AttentionArgs& args);

// "descale_q" with its granularity and blocks.
std::string scale_schema(const std::string& name, const std::string& tensor = "Tensor");
Scale take_scale(Arguments& in, const std::string& name);

inline constexpr const char* kRopeSchema =
    "Tensor? cos=None, Tensor? sin=None, bool interleaved=False, SymInt rotary_dim=0, "
    "Tensor? positions=None";
Rope take_rope(Arguments& in);

// Throws InvalidArgument for what an int cannot hold.
int to_int(std::string_view argument, std::int64_t value);

// Throws InvalidArgument for a name that is none.
Granularity granularity_from(std::string_view argument, std::string_view name);

}  // namespace sotto::bridge

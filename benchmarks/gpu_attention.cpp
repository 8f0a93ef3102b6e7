// The library as benchmarks/gpu_attention.py sees it: a few C functions on the public C++ API, so
// that one process times it and its peers on the same tensors, stream and events.
//
// Nothing is thrown: a function that fails says so by its result, sotto_bench_error() says why.
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "sotto/sotto.h"

// Mirrored by ctypes.Structure in gpu_attention_sotto.py.
struct BenchTensor {
  void* data;
  const char* dtype;  // as dtype_name() writes it; null: the tensor is absent
  std::int32_t cuda;  // index of the GPU, -1: memory of the host
  std::int32_t rank;
  std::int64_t shape[4], strides[4];  // strides in elements
};

struct BenchRequest {
  const char* recipe;  // null: attention on q, k and v as they are, in place of sdpa
  BenchTensor q, k, v, out;
  BenchTensor descale_q, descale_k, descale_v;  // [batch, heads_kv]
  BenchTensor output_scale;
  BenchTensor cos, sin;  // of RoPE, halves
  std::int32_t causal;
};

namespace sotto {
namespace {

thread_local std::string error_text;

Dtype dtype_from(std::string_view name) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3, Dtype::i8})
    if (dtype_name(dtype) == name) return dtype;
  throw InvalidArgument("dtype", "unknown: " + std::string(name));
}

Tensor tensor_from(const BenchTensor& from) {
  Tensor tensor;
  if (from.dtype == nullptr) return tensor;
  tensor.data = from.data;
  tensor.dtype = dtype_from(from.dtype);
  if (from.cuda >= 0) tensor.device = {DeviceType::cuda, from.cuda};
  tensor.rank = from.rank;
  for (std::size_t i = 0; i < static_cast<std::size_t>(from.rank); ++i) {
    tensor.shape[i] = from.shape[i];
    tensor.strides[i] = from.strides[i];
  }
  return tensor;
}

Scale scale_from(const BenchTensor& from) {
  return from.dtype == nullptr ? Scale() : Scale::per_kv_head(tensor_from(from));
}

AttentionArgs args_from(const BenchRequest& request) {
  AttentionArgs args;
  args.q = tensor_from(request.q);
  args.k = tensor_from(request.k);
  args.v = tensor_from(request.v);
  args.out = tensor_from(request.out);
  args.descale = {.q = scale_from(request.descale_q),
                  .k = scale_from(request.descale_k),
                  .v = scale_from(request.descale_v)};
  args.output.scale = tensor_from(request.output_scale);
  if (request.causal != 0) args.mask = Mask::causal();
  return args;
}

}  // namespace
}  // namespace sotto

// A request with its plan: of sdpa() where there is a recipe, else of attention().
class BenchCall {
 public:
  explicit BenchCall(const BenchRequest& request) : args_(sotto::args_from(request)) {
    if (request.recipe == nullptr) {
      attention_.emplace(args_);
      return;
    }
    options_.recipe = sotto::Recipe::parse(request.recipe);
    options_.rope.cos = sotto::tensor_from(request.cos);
    options_.rope.sin = sotto::tensor_from(request.sin);
    sdpa_.emplace(args_, options_);
  }

  std::size_t workspace_size() const {
    return sdpa_ ? sdpa_->workspace_size() : attention_->workspace_size();
  }

  void quantize(sotto::Workspace workspace, sotto::Stream stream) {
    qkv_ = sotto::quantize_qkv(args_, options_, sdpa_.value(), workspace, stream);
  }
  // After quantize() with the same workspace, where there is a recipe.
  void attend(sotto::Workspace workspace, sotto::Stream stream) const {
    if (sdpa_)
      sdpa_->run(qkv_.value(), workspace, stream);
    else
      attention_->run(args_, workspace, stream);
  }
  void sdpa(sotto::Workspace workspace, sotto::Stream stream) const {
    sdpa_.value().run(args_, options_, workspace, stream);
  }

 private:
  sotto::AttentionArgs args_;
  sotto::SdpaOptions options_;
  std::optional<sotto::AttentionPlan> attention_;
  std::optional<sotto::SdpaPlan> sdpa_;
  std::optional<sotto::QuantizedQkv> qkv_;
};

namespace {

// 0, or -1 where `f` threw.
template <class F>
int guarded(F&& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    sotto::error_text = error.what();
    return -1;
  }
}

sotto::Workspace workspace_of(const BenchCall* call, void* data) {
  return {static_cast<std::byte*>(data), call->workspace_size()};
}

}  // namespace

extern "C" {

SOTTO_API const char* sotto_bench_error() { return sotto::error_text.c_str(); }

// Null where it failed.
SOTTO_API BenchCall* sotto_bench_plan(const BenchRequest* request) {
  std::unique_ptr<BenchCall> call;
  guarded([&] { call = std::make_unique<BenchCall>(*request); });
  return call.release();
}

SOTTO_API void sotto_bench_free(BenchCall* call) { delete call; }

SOTTO_API std::size_t sotto_bench_workspace_size(const BenchCall* call) {
  return call->workspace_size();
}

// Each enqueues one step, with a workspace of workspace_size() bytes.
SOTTO_API int sotto_bench_quantize(BenchCall* call, void* workspace, void* stream) {
  return guarded([&] { call->quantize(workspace_of(call, workspace), {stream}); });
}
SOTTO_API int sotto_bench_attend(BenchCall* call, void* workspace, void* stream) {
  return guarded([&] { call->attend(workspace_of(call, workspace), {stream}); });
}
SOTTO_API int sotto_bench_sdpa(BenchCall* call, void* workspace, void* stream) {
  return guarded([&] { call->sdpa(workspace_of(call, workspace), {stream}); });
}

}  // extern "C"

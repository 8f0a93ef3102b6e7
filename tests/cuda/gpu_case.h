// What the tests on a GPU share: a case of the conformance tables with its tensors there, and ways
// to run it.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "cuda/error.h"
#include "mirror.h"
#include "output_reader.h"
#include "request.h"

namespace sotto::test {

inline constexpr const char* kBackend = "sm90";

// Skipped where there is no GPU that the backend can use.
class OnGpu : public testing::Test {
 protected:
  void SetUp() override;
};

// Host tensors stay behind; args and options are those on the GPU.
class GpuCase {
 public:
  explicit GpuCase(const std::string& line);
  GpuCase(const GpuCase&) = delete;
  GpuCase& operator=(const GpuCase&) = delete;

  AttentionCase c;
  AttentionArgs args;
  SdpaOptions options;

  Workspace workspace(std::size_t bytes) { return mirror_.workspace(bytes); }
  // Once the GPU is idle: the bytes of out, then those of lse.
  std::vector<std::byte> result() const;
  void spoil_result() const;
  // The other case's inputs into this one's memory. All but the data is the same.
  void take_inputs_of(const GpuCase& other) const;

 private:
  Request request_;
  Arena arena_;
  std::optional<OutputReader> reader_;
  Mirror mirror_;
};

// A plan of attention() or sdpa(), as the case asks for.
class Plan {
 public:
  explicit Plan(const GpuCase& gpu_case);
  std::size_t workspace_size() const;
  void run(const GpuCase& gpu_case, Workspace workspace, cudaStream_t stream = nullptr) const;

 private:
  std::optional<AttentionPlan> attention_;
  std::optional<SdpaPlan> sdpa_;
};

// Why the backend would not run it; empty: it would.
Reasons refusal(const GpuCase& gpu_case);

// The convenience call: attention() or sdpa().
void run_simply(const GpuCase& gpu_case, cudaStream_t stream = nullptr);

// One that does not wait for the default stream.
class CudaStream {
 public:
  CudaStream() {
    cuda::check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "stream");
  }
  ~CudaStream() { cudaStreamDestroy(handle_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  operator cudaStream_t() const { return handle_; }  // NOLINT(google-explicit-constructor)

 private:
  cudaStream_t handle_ = nullptr;
};

// Cases of every kind of kernel: 16 bit, e4m3 of a caller's own, sdpa by the recipes. Left out is
// what the backend refuses (KindsOfKernels.AreAllThere tells).
std::vector<std::string> kinds();
inline const std::vector<std::string> kAllKinds{
    "b2 h4/2 q300 k300 d128 in=bf16 out=bf16 causal lse",
    "b2 h4/2 q200 k500 d64 in=f16 out=f16 lse",
    "b2 h4/2 q300 k300 d128 in=e4m3 sq=kv_head sk=kv_head sv=kv_head out=bf16 causal lse",
    "b2 h4/2 q300 k300 d128 in=bf16 out=bf16 sdpa=fp8 causal lse",
    "b2 h4/2 q300 k300 d128 in=bf16 out=bf16 sdpa=int8qk causal lse rope=halves",
    "b3 h4/2 q5:300:70 k100:300:33 d128 packed in=bf16 out=bf16 sdpa=int8qk causal_br lse",
};
// The same case with other data: the seed depends on every word.
inline std::string with_other_data(const std::string& line) { return line + " slack=0"; }

// How much b differs from a in power, in dB (out tensors of two cases of one shape).
double difference_db(const GpuCase& a, const GpuCase& b);

}  // namespace sotto::test

// What a caller's own 8-bit Q, K and V need before the attention kernels can take them: V in the
// kernels' layout and without NaN (see qkv.h), rows in multiples of 16 bytes, and e4m3 Q so small
// that no product with a row of K leaves the range of the kernels' f16 sums, whatever was stored.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "sotto/backend.h"

namespace sotto::cuda {

// The caller's tensors where they can stay, else addresses within the workspace.
struct PreparedOperands {
  Tensor q, k;    // [batch, len, heads, dim] or [total, heads, dim]
  Tensor v;       // [slots, dim_v, tokens]
  Scale q_scale;  // e4m3: per token, head-major, of the shifted rows; INT8: the caller's
  const std::uint32_t* bad_keys = nullptr;  // those with a NaN in V
};

// All reasons against it.
Reasons refuse_prepare(const AttentionArgs& args, const Problem& problem);

// Made once for a plan, on a request that was not refused.
class Preparer {
 public:
  Preparer(const AttentionArgs& args, const Problem& problem);

  std::size_t workspace_size() const { return workspace_size_; }
  PreparedOperands operands(const AttentionArgs& args, std::byte* workspace) const;
  // Launches one kernel, or two for e4m3 Q and for INT8 Q whose rows are not aligned. Sets
  // *tile_counter to 0 where it is given. Each is launched as a dependent of what comes before it.
  void run(const AttentionArgs& args, std::byte* workspace, std::uint32_t* tile_counter,
           cudaStream_t stream) const;

 private:
  struct Places;
  Places place(std::byte* workspace) const;

  Problem problem_;
  CUfunction prepare_kv_, prepare_q_;
  std::int64_t tokens_q_ = 0, tokens_k_ = 0;  // of a dense sequence, or of the packed tensor
  std::size_t workspace_size_ = 0;
};

}  // namespace sotto::cuda

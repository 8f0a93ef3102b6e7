// sdpa()'s quantisation of Q, K and V on the GPU, into the layout of the 8-bit attention kernels.
//
// S = Q·Kᵀ of the codes times q_scale · k_scale is q·k. e4m3: K's amax becomes 28 (head sizes above
// 128: 14) and Q's at most 14, so that |S| stays below 57,344, and q_scale · k_scale · scale · log2
// e has the 11 bits of a half. INT8 and V: as quantize().
//
// Q and K are stored head-major, [batch, heads, len, dim] or packed [heads, total, dim]. V is
// transposed and permuted, [slot, dim_v, tokens]: slot b·heads_kv + h, tokens padded to a multiple
// of 128 (dense); slot h, sequence b from token (cu_seqlens[b]/128 + b)·128 on, (total/128 + batch)
// ·128 tokens (packed). Inside each 16 keys, place 4t+2b+e holds key 8b+2t+e. Tokens of a last tile
// beyond the sequence are 0; tiles beyond its used length are not written.
//
// NaN in V becomes 0, for P = 0 of a hidden key would not keep it out of the products. Bits say
// which keys had one: [slot, tokens/32] words, written where V is, key t at bit t % 32 of word
// t / 32.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/quantize/qkv_kernels.h"
#include "sotto/backend.h"
#include "sotto/sdpa.h"

namespace sotto::cuda {

// Addresses within the workspace.
struct QkvOperands {
  Tensor q, k;      // [batch, len, heads, dim] or [total, heads, dim], e4m3 or i8
  Tensor v;         // [slots, dim_v, tokens], e4m3
  Scale q_scale;    // e4m3: per kv head; INT8: per token, head-major
  Scale k_scale;    // e4m3: per kv head; INT8: per block of 128
  Scale v_scale;    // per kv head, or 2^e per block of 128
  Tensor row_bias;  // [batch, heads_q, len_q] or [heads_q, total_q]: scale · q·mean(K); or absent
  Tensor v_mean;    // [batch, heads_kv, dim_v], to be added to the output; or absent
  const std::uint32_t* bad_keys = nullptr;  // those with a NaN in V
};

// All reasons against it: what the attention kernels' layout has no place for.
Reasons refuse_qkv(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem);

// Made once for a plan, on a request that was not refused.
class QkvQuantizer {
 public:
  QkvQuantizer(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem);

  std::size_t workspace_size() const { return workspace_size_; }
  QkvOperands operands(std::byte* workspace) const;
  // That of operands(), which lies first.
  static const std::uint32_t* bad_keys(std::byte* workspace) {
    return reinterpret_cast<const std::uint32_t*>(workspace);
  }
  // Launches one kernel that writes, before it one for means and one for scales of whole heads
  // where the recipe has them, and one after it for V's mean. Sets *tile_counter to 0 where it is
  // given. The next kernel on the stream may be launched as a dependent one.
  void run(const AttentionArgs& args, const SdpaOptions& options, std::byte* workspace,
           std::uint32_t* tile_counter, cudaStream_t stream) const;

 private:
  CUfunction writer(const QkvParams& params) const;
  std::size_t place(std::byte* workspace, QkvParams* params, QkvOperands* operands) const;

  Recipe recipe_;
  Problem problem_;
  std::int64_t tokens_q_ = 0, tokens_k_ = 0;  // of a dense sequence, or of the packed tensor
  std::int64_t slots_k_ = 0;                  // tiles of 128 keys in all sequences
  std::size_t workspace_size_ = 0;
  CUfunction means_ = nullptr, statistics_ = nullptr, write_ = nullptr;
  int statistics_bytes_ = 0, write_bytes_ = 0;  // of shared memory
  // For aligned rows with RoPE of that kind, where there is a kernel for them.
  CUfunction write_fixed_ = nullptr;
  RopeKind fixed_rope_ = RopeKind::none;
  int width_ = 0;   // of padded rows
  int blocks_ = 0;  // of the writing kernel: one on each multiprocessor
};

}  // namespace sotto::cuda

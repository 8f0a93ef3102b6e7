// From the tensors of a request to what the kernels of warp_rows.cuh are told.
#pragma once

#include <cmath>
#include <string>

#include "core/hadamard.h"
#include "cuda/quantize/token_sides.h"
#include "cuda/quantize/warp_rows.cuh"
#include "sotto/backend.h"

namespace sotto::cuda {

inline AnyRows any_rows(const Tensor& x) {
  const bool packed = x.rank == 3;
  return {x.data, x.dtype, packed ? 0 : x.stride(0), x.stride(packed ? 0 : 1),
          x.stride(packed ? 1 : 2)};
}

inline ChannelTable channel_table(const Tensor& table) {
  if (!table) return {};
  return {static_cast<float*>(table.data), {table.stride(0), table.stride(1), table.stride(2)}};
}

inline WarpRowsParams warp_rows_params(const Tensor& x, const Scale& descale, const Rope& rope,
                                       bool hadamard, const Tensor& cu_seqlens,
                                       const Tensor& seqused) {
  WarpRowsParams params;
  params.x = any_rows(x);
  params.heads = static_cast<int>(x.size(x.rank - 2));
  params.dim = static_cast<int>(x.size(x.rank - 1));
  const std::int64_t batch = cu_seqlens ? cu_seqlens.size(0) - 1 : x.size(0);
  params.tokens = token_side(x, cu_seqlens, seqused, rope.positions, batch);
  params.descale = scale_view(descale, params.heads);
  params.rope = rope_tables(rope, params.dim, params.dim);
  const int block = static_cast<int>(core::hadamard_block(params.dim));
  if (hadamard && block > 1) {
    params.hadamard = block;
    params.normalize = 1.0f / std::sqrt(static_cast<float>(block));
  }
  return params;
}

inline Reasons refuse_rows(const Tensor& x) {
  constexpr std::int64_t kMostTokens = 1 << 30;
  Reasons reasons;
  const std::int64_t dim = x.size(x.rank - 1);
  if (dim > kMostRowChannels) {
    reasons.push_back("head sizes above " + std::to_string(kMostRowChannels) +
                      " are not taken, got " + std::to_string(dim));
  }
  const std::int64_t tokens = x.rank == 3 ? x.size(0) : x.size(0) * x.size(1);
  if (tokens > kMostTokens) {
    reasons.push_back("x has more than 2^30 tokens: " + std::to_string(tokens));
  }
  return reasons;
}

}  // namespace sotto::cuda

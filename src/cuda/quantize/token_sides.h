// Queries and keys of a request as kernels see them.
#pragma once

#include <cstdint>

#include "core/geometry.h"
#include "cuda/quantize/qkv_params.h"
#include "sotto/tensor.h"

namespace sotto::cuda {

// seqused and positions may be absent.
inline TokenSide token_side(const Tensor& x, const Tensor& cu_seqlens, const Tensor& seqused,
                            const Tensor& positions, std::int64_t batch) {
  TokenSide side;
  side.batch = static_cast<int>(batch);
  const bool packed = static_cast<bool>(cu_seqlens);
  side.len = static_cast<int>(x.size(packed ? 0 : 1));
  if (packed) {
    side.cu_seqlens = static_cast<const std::int32_t*>(cu_seqlens.data);
    side.cu_stride = cu_seqlens.stride(0);
    side.slots = static_cast<int>(side.len / kTileTokens + batch);
  } else {
    side.tiles = static_cast<int>(core::ceil_div(side.len, kTileTokens));
    side.slots = static_cast<int>(side.tiles * batch);
  }
  if (seqused) {
    side.seqused = static_cast<const std::int32_t*>(seqused.data);
    side.seqused_stride = seqused.stride(0);
  }
  if (positions) {
    side.positions = static_cast<const std::int32_t*>(positions.data);
    if (!packed && positions.size(0) > 1) side.position_strides[0] = positions.stride(0);
    side.position_strides[1] = positions.stride(positions.rank - 1);
  }
  return side;
}

}  // namespace sotto::cuda

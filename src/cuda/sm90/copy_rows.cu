#include <algorithm>
#include <cstdint>

#include "cuda/error.h"
#include "cuda/sm90/copy_rows.h"

namespace sotto::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 8;  // that a thread copies at a time

struct Rows {
  const std::uint16_t* data;
  std::int64_t tokens, heads, dim;
  std::int64_t batch_stride, token_stride, head_stride;
};

__global__ void copy_rows_kernel(const Rows from, uint4* to, std::int64_t chunks) {
  const std::int64_t chunks_of_row = from.dim / kElements;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x; i < chunks;
       i += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const std::int64_t row = i / chunks_of_row, token = row / from.heads;
    const std::uint16_t* const x = from.data + token / from.tokens * from.batch_stride +
                                   token % from.tokens * from.token_stride +
                                   row % from.heads * from.head_stride +
                                   i % chunks_of_row * kElements;
    to[i] = make_uint4(x[0] | x[1] << 16, x[2] | x[3] << 16, x[4] | x[5] << 16, x[6] | x[7] << 16);
  }
}

}  // namespace

Tensor copy_rows(const Tensor& from, std::byte* to, cudaStream_t stream) {
  const bool packed = from.rank == 3;
  const int token = packed ? 0 : 1, head = token + 1, dim = head + 1;
  const Tensor copy =
      packed ? Tensor(to, from.dtype, {from.size(0), from.size(1), from.size(2)}, from.device)
             : Tensor(to, from.dtype, {from.size(0), from.size(1), from.size(2), from.size(3)},
                      from.device);
  const std::int64_t chunks = from.numel() / kElements;
  if (chunks == 0) return copy;
  const Rows rows{static_cast<const std::uint16_t*>(from.data),
                  from.size(token),
                  from.size(head),
                  from.size(dim),
                  packed ? 0 : from.stride(0),
                  from.stride(token),
                  from.stride(head)};
  const std::int64_t blocks = std::min<std::int64_t>((chunks + kThreads - 1) / kThreads, 1 << 16);
  copy_rows_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      rows, reinterpret_cast<uint4*>(to), chunks);
  cuda::check(cudaGetLastError(), "launching a copy of rows");
  return copy;
}

}  // namespace sotto::sm90

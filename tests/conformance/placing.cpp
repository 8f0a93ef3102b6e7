#include "placing.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <numeric>

#include "spec.h"

namespace sotto::test {
namespace {

// Sixteen rows apart, offsets no longer fit into 32 bits.
constexpr std::int64_t kFar = std::int64_t{1} << 28;

Tensor tensor_of(std::byte* data, Dtype dtype, const std::vector<std::int64_t>& shape,
                 const std::vector<std::int64_t>& strides) {
  Tensor tensor;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  std::copy(strides.begin(), strides.end(), tensor.strides.begin());
  return tensor;
}

// Strides of a tensor whose dimensions are stored in `order`, slowest first.
std::vector<std::int64_t> strides_of(const std::vector<std::int64_t>& shape,
                                     const std::vector<std::size_t>& order, std::int64_t gap) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = 1;
  for (std::size_t n = order.size(); n-- > 0;) {
    strides[order[n]] = stride;
    stride = stride * std::max<std::int64_t>(shape[order[n]], 1) + gap;
  }
  return strides;
}

std::int64_t span_of(const std::vector<std::int64_t>& shape,
                     const std::vector<std::int64_t>& strides) {
  std::int64_t last = 0;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] == 0) return 0;
    last += (shape[d] - 1) * strides[d];
  }
  return last + 1;
}

}  // namespace

Order order_of(Spec& spec) {
  Order order{.heads_first = spec.has("bhsd")};
  if (spec.has("strided")) order.gap = 3;
  if (spec.has("far")) order.gap = kFar;
  return order;
}

std::byte Arena::untouched(Order order) {
  return order.gap == kFar ? std::byte{0} : std::byte{0xff};
}

std::byte* Arena::allocate(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  if (bytes < kFar) {
    blocks_.emplace_back(new std::byte[size], std::default_delete<std::byte[]>());
    std::memset(blocks_.back().get(), 0xff, size);
  } else {
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    blocks_.emplace_back(static_cast<std::byte*>(memory),
                         [size](std::byte* block) { ::munmap(block, size); });
  }
  return blocks_.back().get();
}

Tensor Arena::make(Dtype dtype, const std::vector<std::int64_t>& shape) {
  std::vector<std::size_t> order(shape.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto strides = strides_of(shape, order, 0);
  return tensor_of(allocate(span_of(shape, strides) * dtype_size(dtype)), dtype, shape, strides);
}

Tensor Placing::make(Arena& arena, Dtype dtype, std::int64_t heads, std::int64_t dim,
                     Order order) const {
  std::vector<std::int64_t> shape{rows, page_size > 0 ? page_size : capacity, heads, dim};
  std::vector<std::size_t> storage{0, 1, 2, 3};
  if (packed) {
    shape.erase(shape.begin() + 1);
    storage.pop_back();
  }
  if (order.heads_first) std::swap(storage[storage.size() - 2], storage[storage.size() - 3]);
  const auto strides = strides_of(shape, storage, order.gap);
  const Tensor memory = arena.make(dtype, {span_of(shape, strides)});
  return tensor_of(static_cast<std::byte*>(memory.data), dtype, shape, strides);
}

Tensor Placing::make_per_token(Arena& arena, Dtype dtype, std::int64_t heads) const {
  Tensor tensor = make(arena, dtype, heads, 1);
  --tensor.rank;
  return tensor;
}

Tensor Placing::make_head_major(Arena& arena, std::int64_t batch, std::int64_t heads,
                                std::int64_t of_sequence) const {
  if (packed) return arena.make(Dtype::f32, {heads, rows});
  return arena.make(Dtype::f32, {batch, heads, of_sequence});
}

std::byte* Placing::at(const Tensor& tensor, std::size_t sequence, std::int64_t token,
                       std::int64_t head) const {
  if (packed) {
    return tensor.at((first[sequence] + token) * tensor.stride(0) + head * tensor.stride(1));
  }
  std::int64_t row, within = token;
  if (page_size > 0) {
    row = pages[sequence][static_cast<std::size_t>(token / page_size)];
    within = token % page_size;
  } else {
    row = first[sequence];
  }
  return tensor.at(row * tensor.stride(0) + within * tensor.stride(1) + head * tensor.stride(2));
}

float& Placing::head_major(const Tensor& tensor, std::size_t sequence, std::int64_t head,
                           std::int64_t token) const {
  const std::int64_t offset =
      packed ? head * tensor.stride(0) + (first[sequence] + token) * tensor.stride(1)
             : static_cast<std::int64_t>(sequence) * tensor.stride(0) + head * tensor.stride(1) +
                   token * tensor.stride(2);
  return *reinterpret_cast<float*>(tensor.at(offset));
}

}  // namespace sotto::test

// Memory for test tensors, and where the tokens of a ragged batch lie in it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sotto/tensor.h"

namespace sotto::test {

class Spec;

// Storage order and gaps.
struct Order {
  bool heads_first = false;  // BHSD (packed: [heads, total, dim])
  std::int64_t gap = 0;      // elements between rows
};

// As the words bhsd, strided and far ask for it.
Order order_of(Spec& spec);

// Owns the memory of tensors. Every allocation is exact, so that a sanitizer sees one element too
// far, and full of 0xff: NaN in every float format, a page that does not exist in every table.
// Those of 256 MiB or more are only reserved, and read as 0.
class Arena {
 public:
  Tensor make(Dtype dtype, const std::vector<std::int64_t>& shape);
  template <class T>
  Tensor copy(const std::vector<T>& values, const std::vector<std::int64_t>& shape);

  // What nobody has written in a tensor of several rows.
  static std::byte untouched(Order order);

 private:
  std::byte* allocate(std::int64_t bytes);

  std::vector<std::shared_ptr<std::byte>> blocks_;
};

template <class T>
Tensor Arena::copy(const std::vector<T>& values, const std::vector<std::int64_t>& shape) {
  const Tensor tensor = make(detail::dtype_of<T>(), shape);
  std::copy(values.begin(), values.end(), static_cast<T*>(tensor.data));
  return tensor;
}

// Where token t of sequence b lies: [rows, capacity, heads, …], packed [total, heads, …] or paged
// [pages, page_size, heads, …].
struct Placing {
  bool packed = false;
  std::int64_t page_size = 0;                    // 0: not paged
  std::vector<std::int64_t> first;               // packed: a sequence's first token; dense: its row
  std::vector<std::vector<std::int32_t>> pages;  // a sequence's pages
  std::int64_t rows = 0;                         // dense: rows; packed: tokens; paged: pages
  std::int64_t capacity = 0;                     // dense: tokens of a row

  // A tensor for the tokens with an inner size for each head, or without one (per-token scales).
  Tensor make(Arena& arena, Dtype dtype, std::int64_t heads, std::int64_t dim,
              Order order = {}) const;
  Tensor make_per_token(Arena& arena, Dtype dtype, std::int64_t heads) const;
  // [batch, heads, capacity] or packed [heads, total].
  Tensor make_head_major(Arena& arena, std::int64_t batch, std::int64_t heads,
                         std::int64_t capacity) const;

  std::byte* at(const Tensor& tensor, std::size_t sequence, std::int64_t token,
                std::int64_t head) const;
  float& head_major(const Tensor& tensor, std::size_t sequence, std::int64_t head,
                    std::int64_t token) const;
};

}  // namespace sotto::test

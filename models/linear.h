// Linear layers y = W x without bias, by oneDNN.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>

namespace sotto::models {

// The weights are copied once into the layout that oneDNN multiplies fastest by. Several matrices
// of the same input can be stacked into one: their outputs stand side by side in y.
class Linear {
 public:
  // Each part is a row-major [out_i, in]. Throws InvalidArgument where a part is no such matrix.
  Linear(std::int64_t in, std::initializer_list<std::span<const float>> parts);
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  std::int64_t in() const;
  std::int64_t out() const;

  // y[rows, out] = x[rows, in] · Wᵀ, or added to what y holds. Not from several threads at once.
  void apply(const float* x, std::int64_t rows, float* y);
  void apply_add(const float* x, std::int64_t rows, float* y);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sotto::models

// A tensor is a view: pointer, dtype, device, shape, strides. Nothing is owned, nothing is copied.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "sotto/error.h"
#include "sotto/numerics.h"

namespace sotto {

enum class Dtype : std::uint8_t {
  f32,
  f16,
  bf16,
  e4m3,     // OCP e4m3fn
  i8,       // INT8 Q and K
  e2m1x2,   // one byte, two e2m1 numbers, the first in the low nibble (NVFP4 output)
  ue8m0,    // power-of-two scales
  i32,      // lengths, offsets, page tables, positions
  boolean,  // one byte; 0 is false (masks)
};

// "f32", "bf16", … ; bytes per element.
std::string_view dtype_name(Dtype dtype);
std::int64_t dtype_size(Dtype dtype);

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;  // which GPU; 0 for the CPU
  bool operator==(const Device&) const = default;
};

// A CUDA stream, without CUDA's headers; null is the default stream. The CPU ignores it.
struct Stream {
  void* handle = nullptr;
};

namespace detail {
template <class T>
constexpr Dtype dtype_of() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return Dtype::f32;
  else if constexpr (std::is_same_v<U, f16>)
    return Dtype::f16;
  else if constexpr (std::is_same_v<U, bf16>)
    return Dtype::bf16;
  else if constexpr (std::is_same_v<U, e4m3>)
    return Dtype::e4m3;
  else if constexpr (std::is_same_v<U, std::int8_t>)
    return Dtype::i8;
  else if constexpr (std::is_same_v<U, ue8m0>)
    return Dtype::ue8m0;
  else if constexpr (std::is_same_v<U, std::int32_t>)
    return Dtype::i32;
  else if constexpr (std::is_same_v<U, bool>)
    return Dtype::boolean;
  else
    static_assert(!sizeof(U), "no Dtype for this type; name the Dtype explicitly");
}
}  // namespace detail

// A default-constructed Tensor means "absent". Inputs are never written, whatever the pointer's
// constness says. A tensor that is written must not overlap another argument or itself (only stride
// 0 is caught).
struct Tensor {
  static constexpr int kMaxRank = 4;
  using Dims = std::array<std::int64_t, kMaxRank>;

  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  Device device;
  int rank = 0;    // 0: absent
  Dims shape{};    // elements [0, rank) are used
  Dims strides{};  // in elements; 0 broadcasts

  Tensor() = default;

  // Contiguous, the last dimension fastest. Throws InvalidArgument for a rank of 0 or above 4 or a
  // negative size.
  Tensor(void* elements, Dtype type, std::initializer_list<std::int64_t> sizes, Device where = {});
  Tensor(void* elements, Dtype type, std::initializer_list<std::int64_t> sizes,
         std::initializer_list<std::int64_t> steps, Device where = {});

  // The dtype follows from the pointer: Tensor(std::vector<bf16>(...).data(), {b, s, h, d}).
  template <class T>
  requires(!std::is_void_v<T>)
      Tensor(T* elements, std::initializer_list<std::int64_t> sizes, Device where = {})
      : Tensor(const_cast<std::remove_const_t<T>*>(elements), detail::dtype_of<T>(), sizes, where) {
  }

  explicit operator bool() const { return rank > 0; }
  std::int64_t numel() const;  // the largest int64 where the product overflows
  std::int64_t size(int dim) const { return shape[static_cast<std::size_t>(dim)]; }
  std::int64_t stride(int dim) const { return strides[static_cast<std::size_t>(dim)]; }

  // The same memory with two dimensions exchanged: a BHSD tensor is t.transposed(1, 2) of BSHD.
  Tensor transposed(int dim_a, int dim_b) const;

  // The bytes at an offset of `elements`; the dtype says how to read them.
  std::byte* at(std::int64_t elements) const {
    return static_cast<std::byte*>(data) + elements * dtype_size(dtype);
  }
};

// "bf16 [2, 128, 8, 64]", for messages.
std::string to_string(const Tensor& tensor);
std::string to_string(const Device& device);

}  // namespace sotto

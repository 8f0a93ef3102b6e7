/// @file
/// A tensor is a view: pointer, dtype, device, shape, strides. Nothing is owned, nothing is copied.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "sotto/error.h"
#include "sotto/export.h"
#include "sotto/numerics.h"

namespace sotto {

/// What a tensor holds.
enum class Dtype : std::uint8_t {
  f32,      ///< IEEE 754 binary32
  f16,      ///< IEEE 754 binary16
  bf16,     ///< the upper half of f32
  e4m3,     ///< OCP e4m3fn
  i8,       ///< INT8 Q and K
  e2m1x2,   ///< one byte, two e2m1 numbers, the first in the low nibble (NVFP4 output)
  ue8m0,    ///< power-of-two scales
  i32,      ///< lengths, offsets, page tables, positions
  boolean,  ///< one byte; 0 is false (masks)
};

/// "f32", "bf16", …
SOTTO_API std::string_view dtype_name(Dtype dtype);
/// Bytes per element; of e2m1x2, per pair.
SOTTO_API std::int64_t dtype_size(Dtype dtype);

/// Kinds of devices.
enum class DeviceType : std::uint8_t {
  cpu,   ///< memory of the host
  cuda,  ///< memory of an NVIDIA GPU
};

/// Where a tensor lies.
struct Device {
  DeviceType type = DeviceType::cpu;  ///< the kind
  int index = 0;                      ///< which GPU; 0 for the CPU
  /// The same kind and index.
  bool operator==(const Device&) const = default;
};

/// A CUDA stream of the tensors' device, without CUDA's headers; null is the default stream. The
/// CPU ignores it.
struct Stream {
  void* handle = nullptr;  ///< a cudaStream_t
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

/// A view of memory: pointer, dtype, device, shape, strides.
///
/// A default-constructed Tensor means "absent". Inputs are never written, whatever the pointer's
/// constness says. A tensor that is written must not overlap another argument or itself (not
/// all of that is caught: stride 0 is, and an output that begins where another one or an input
/// does).
struct Tensor {
  static constexpr int kMaxRank = 4;                ///< of any argument
  using Dims = std::array<std::int64_t, kMaxRank>;  ///< one number for each dimension

  void* data = nullptr;      ///< the first element, aligned to its size
  Dtype dtype = Dtype::f32;  ///< what `data` points to
  Device device;             ///< where `data` lies
  int rank = 0;              ///< 0: absent
  Dims shape{};              ///< elements [0, rank) are used
  Dims strides{};            ///< in elements; 0 broadcasts

  /// Absent.
  Tensor() = default;

  /// Contiguous, the last dimension fastest. Throws InvalidArgument for a rank of 0 or above 4 or a
  /// negative size.
  SOTTO_API Tensor(void* elements, Dtype type, std::initializer_list<std::int64_t> sizes,
                   Device where = {});
  /// With strides (`steps`, in elements), one for each size.
  SOTTO_API Tensor(void* elements, Dtype type, std::initializer_list<std::int64_t> sizes,
                   std::initializer_list<std::int64_t> steps, Device where = {});

  /// The dtype follows from the pointer: Tensor(std::vector<bf16>(...).data(), {b, s, h, d}).
  template <class T>
  requires(!std::is_void_v<T>)
      Tensor(T* elements, std::initializer_list<std::int64_t> sizes, Device where = {})
      : Tensor(const_cast<std::remove_const_t<T>*>(elements), detail::dtype_of<T>(), sizes, where) {
  }

  /// Whether it is there.
  explicit operator bool() const { return rank > 0; }
  /// How many elements; the largest int64 where the product overflows.
  SOTTO_API std::int64_t numel() const;
  /// Elements along a dimension, 0 … rank - 1.
  std::int64_t size(int dim) const { return shape[static_cast<std::size_t>(dim)]; }
  /// Elements from one index of a dimension to the next.
  std::int64_t stride(int dim) const { return strides[static_cast<std::size_t>(dim)]; }

  /// The same memory with two dimensions exchanged: a BHSD tensor is t.transposed(1, 2) of BSHD.
  SOTTO_API Tensor transposed(int dim_a, int dim_b) const;

  /// The bytes at an offset of `elements`; the dtype says how to read them.
  std::byte* at(std::int64_t elements) const {
    return static_cast<std::byte*>(data) + elements * dtype_size(dtype);
  }
};

/// "bf16 [2, 128, 8, 64]", for messages.
SOTTO_API std::string to_string(const Tensor& tensor);
/// "cpu", "cuda:0", for messages.
SOTTO_API std::string to_string(const Device& device);

}  // namespace sotto

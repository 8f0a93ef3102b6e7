// The words of every error: helpers that validation is written with.
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "sotto/error.h"
#include "sotto/tensor.h"

namespace sotto::core {

template <class... Args>
[[noreturn]] void fail(std::string_view argument, fmt::format_string<Args...> text,
                       Args&&... args) {
  throw InvalidArgument(std::string(argument), fmt::format(text, std::forward<Args>(args)...));
}

enum class Access { read, write };

// Data not null, strides not negative, spans within int64 bytes, aligned to its dtype; a written
// tensor has no broadcast dimension. The tensor must be present.
void check_memory(std::string_view argument, const Tensor& tensor, Access access);

// A written tensor must not be the memory of another; only the same first address is caught.
void check_apart(std::string_view argument, const Tensor& tensor, std::string_view other_argument,
                 const Tensor& other);

void check_present(std::string_view argument, const Tensor& tensor);
void check_rank(std::string_view argument, const Tensor& tensor, int rank);
void check_dtype(std::string_view argument, const Tensor& tensor,
                 std::initializer_list<Dtype> allowed);
void check_device(std::string_view argument, const Tensor& tensor, const Device& device);
void check_contiguous_last(std::string_view argument, const Tensor& tensor);
// `expected` sizes; `meaning` is their names, as "[batch, heads_q, len_q]".
void check_shape(std::string_view argument, const Tensor& tensor,
                 std::initializer_list<std::int64_t> expected, std::string_view meaning);

// A small tensor of parameters: f32 or i32, shape, device, memory, in one go.
void check_table(std::string_view argument, const Tensor& tensor, Dtype dtype,
                 std::initializer_list<std::int64_t> expected, std::string_view meaning,
                 const Device& device, Access access = Access::read);

}  // namespace sotto::core

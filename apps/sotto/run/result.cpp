#include "run/result.h"

#include <algorithm>
#include <array>
#include <ostream>
#include <utility>

#include <fmt/format.h>

#include "command.h"
#include "core/element.h"
#include "models/file_error.h"
#include "models/npy.h"
#include "models/safetensors.h"
#include "output_file.h"
#include "sotto/numerics.h"

namespace sotto::cli {

using models::FileError;
using models::StorageType;
using models::StoredTensor;

namespace {

// Stands for memory that an output will have: the checks ask for a pointer, and read none.
void* const kNoMemoryYet = reinterpret_cast<void*>(std::uintptr_t{4096});
void* const kNoLseYet = reinterpret_cast<void*>(std::uintptr_t{8192});

constexpr std::int64_t kNvfp4Group = 16;

StorageType storage_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f16:
      return StorageType::f16;
    case Dtype::bf16:
      return StorageType::bf16;
    case Dtype::e4m3:
      return StorageType::e4m3;
    case Dtype::e2m1x2:
    case Dtype::ue8m0:
      return StorageType::u8;
    default:
      return StorageType::f32;
  }
}

Dtype output_dtype(const ResultOptions& options, const AttentionArgs& args) {
  if (options.dtype) return *options.dtype;
  return core::is_quantized(args.q.dtype) ? Dtype::bf16 : args.q.dtype;
}

void check_options(const ResultOptions& options, Layout layout, Dtype dtype) {
  if (options.group > 0 && dtype != Dtype::e4m3)
    throw UsageError(fmt::format("--output-group {}: is for --out-dtype e4m3", options.group));
  if (options.ue8m0 && options.group == 0)
    throw UsageError("--group-scale-dtype ue8m0: is for --output-group");
  // Scales of groups are rows of the matrix [tokens, heads · dim].
  if (layout == Layout::bhsd && (options.group > 0 || dtype == Dtype::e2m1x2))
    throw UsageError("--layout bhsd: an output with scales of groups is [batch, len, heads, dim]");
  if (options.out_file.ends_with(".npy") && !models::has_npy_type(storage_type(dtype)))
    throw UsageError(fmt::format(
        "--out {}: NumPy has no {}; write .safetensors, or choose --out-dtype f32 or f16",
        options.out_file, dtype_name(dtype)));
  if (options.out_file.ends_with(".npy") && dtype == Dtype::e2m1x2)
    throw UsageError(fmt::format("--out {}: an NVFP4 output and its scales need .safetensors",
                                 options.out_file));
  if (!options.lse_file.empty() && !options.lse)
    throw UsageError("--lse-out and --no-lse exclude each other");
  if (!options.lse_file.empty() && options.lse_file == options.out_file)
    throw UsageError(fmt::format("--lse-out {}: is --out's file", options.lse_file));
}

std::int64_t ceil_to(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Bytes or codes as floats, the codes by `T`.
template <class T>
std::vector<float> decode(std::span<const std::byte> data) {
  std::vector<float> values(data.size());
  std::transform(data.begin(), data.end(), values.begin(), [](std::byte code) {
    return static_cast<float>(T::from_bits(std::to_integer<std::uint8_t>(code)));
  });
  return values;
}

// A matrix [tokens, columns] of scales, as floats, to look up the scale of an element in.
struct GroupScales {
  std::vector<float> values;
  std::int64_t columns = 0;
  std::int64_t group = 0;
  bool swizzled = false;

  float at(std::int64_t row, std::int64_t column) const {
    const std::int64_t c = column / group;
    const std::int64_t at = swizzled ? ((row / 128) * (columns / 4) + c / 4) * 512 +
                                           (row % 32) * 16 + (row / 32 % 4) * 4 + c % 4
                                     : row * columns + c;
    return values[static_cast<std::size_t>(at)];
  }
};

}  // namespace

RunResult::RunResult(const ResultOptions& options, Layout layout, AttentionArgs& args)
    : layout_(layout) {
  const Dtype dtype = output_dtype(options, args);
  check_options(options, layout, dtype);
  // With other ranks the request is refused, whatever the outputs.
  if (args.q.rank < 3 || args.v.rank < 3) return;
  const auto last = static_cast<std::size_t>(args.q.rank - 1);
  const std::int64_t heads = args.q.size(args.q.rank - 2);
  const std::int64_t dim = args.v.size(args.v.rank - 1);
  Tensor::Dims shape = args.q.shape;
  shape[last] = dtype == Dtype::e2m1x2 ? dim / 2 : dim;
  if (layout == Layout::bhsd) std::swap(shape[last - 1], shape[last - 2]);
  args.out = contiguous_view("out", kNoMemoryYet, dtype, {shape.data(), last + 1});
  if (layout == Layout::bhsd) args.out = args.out.transposed(args.out.rank - 3, args.out.rank - 2);
  const bool packed = args.q.rank == 3;
  if (options.lse) {
    const std::array<std::int64_t, 3> dense = {args.q.size(0), heads, args.q.size(1)};
    const std::array<std::int64_t, 2> flat = {heads, args.q.size(0)};
    args.lse = contiguous_view("lse", kNoLseYet, Dtype::f32,
                               packed ? std::span<const std::int64_t>(flat) : dense);
  }
  if (options.group > 0 && dim % options.group != 0)
    throw UsageError(fmt::format(
        "--output-group {}: expected a divisor of v's head size, which is {}", options.group, dim));
  std::int64_t tokens = args.q.size(0), width = 0;
  if ((!packed && __builtin_mul_overflow(tokens, args.q.size(1), &tokens)) ||
      __builtin_mul_overflow(heads, dim, &width))
    throw Error("out: sizes overflow 64 bits");
  if (options.group > 0) {
    const std::array<std::int64_t, 2> groups = {tokens, width / options.group};
    args.output.group_scale = contiguous_view("group_scale", kNoMemoryYet,
                                              options.ue8m0 ? Dtype::ue8m0 : Dtype::f32, groups);
  } else if (dtype == Dtype::e2m1x2) {
    const std::array<std::int64_t, 2> groups = {ceil_to(tokens, 128),
                                                ceil_to(width / kNvfp4Group, 4)};
    args.output.group_scale = contiguous_view("group_scale", kNoMemoryYet, Dtype::e4m3, groups);
  }
}

void RunResult::take(const char* name, Tensor& tensor) {
  if (!tensor) return;
  const auto bytes = static_cast<std::size_t>(tensor.numel() * dtype_size(tensor.dtype));
  auto& memory = memory_.emplace_back(std::max<std::size_t>(bytes, 1));
  tensor.data = memory.data();
  const Tensor& as_stored =
      layout_ == Layout::bhsd && tensor.rank >= 3 && std::string_view(name) == "out"
          ? tensor.transposed(tensor.rank - 3, tensor.rank - 2)
          : tensor;
  tensors_.emplace(name, StoredTensor{.file = "the result",
                                      .type = storage_type(tensor.dtype),
                                      .shape = {as_stored.shape.begin(),
                                                as_stored.shape.begin() + as_stored.rank},
                                      .data = std::span(memory).first(bytes)});
}

void RunResult::allocate(AttentionArgs& args) {
  take("out", args.out);
  take("lse", args.lse);
  take("group_scale", args.output.group_scale);
  if (args.output.scale) {
    Tensor copy = args.output.scale;  // one number, for whoever reads the file
    take("output_scale", copy);
    *static_cast<float*>(copy.data) = *static_cast<const float*>(args.output.scale.data);
  }
}

void RunResult::write(const ResultOptions& options) const {
  if (!options.out_file.empty())
    write_file(options.out_file, [&](std::ostream& file) {
      if (options.out_file.ends_with(".npy"))
        models::write_npy(file, tensors_.at("out"));
      else
        models::write_safetensors(file, tensors_);
    });
  if (!options.lse_file.empty())
    write_file(options.lse_file,
               [&](std::ostream& file) { models::write_npy(file, tensors_.at("lse")); });
}

std::vector<float> values_of(const models::TensorMap& tensors, const std::string& name,
                             const std::string& file) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw FileError(file, name, "there is no such tensor");
  const StoredTensor& tensor = found->second;
  const bool nvfp4 = tensor.type == StorageType::u8;
  if (tensor.type != StorageType::e4m3 && !nvfp4) return to_float(tensor);

  const auto scale_entry = tensors.find("output_scale");
  float scale = 1;
  if (scale_entry != tensors.end()) {
    const std::vector<float> values = to_float(scale_entry->second);
    if (values.size() != 1)
      throw FileError(file, "output_scale",
                      "must have one element, got " + to_string(scale_entry->second));
    scale = values[0];
  }
  std::vector<float> values;
  if (nvfp4) {
    for (const std::byte pair : tensor.data) {
      const auto code = std::to_integer<std::uint8_t>(pair);
      values.push_back(static_cast<float>(e2m1::from_bits(code & 15)));
      values.push_back(static_cast<float>(e2m1::from_bits(code >> 4)));
    }
  } else {
    values = decode<e4m3>(tensor.data);
  }
  const auto group_entry = tensors.find("group_scale");
  if (group_entry == tensors.end()) {
    if (nvfp4) throw FileError(file, "group_scale", "is missing: " + name + " is U8, NVFP4 pairs");
    for (float& value : values) value *= scale;
    return values;
  }

  const StoredTensor& stored = group_entry->second;
  const auto wrong = [&](const std::string& expected) {
    throw FileError(file, "group_scale",
                    fmt::format("must be {} for {} {}, got {}", expected, name, to_string(tensor),
                                to_string(stored)));
  };
  if (tensor.shape.size() < 3 || stored.shape.size() != 2) wrong("a matrix");
  const auto rank = tensor.shape.size();
  const std::int64_t width = tensor.shape[rank - 1] * tensor.shape[rank - 2] * (nvfp4 ? 2 : 1);
  const std::int64_t rows = width == 0 ? 0 : static_cast<std::int64_t>(values.size()) / width;
  GroupScales scales{.values = {}, .columns = stored.shape[1], .swizzled = nvfp4};
  if (nvfp4) {
    if (stored.type != StorageType::e4m3 || stored.shape[0] != ceil_to(rows, 128) ||
        scales.columns != ceil_to(width / kNvfp4Group, 4))
      wrong("F8_E4M3 [tokens and columns rounded up to 128 and 4]");
    scales.values = decode<e4m3>(stored.data);
    for (float& value : scales.values) value /= scale;
    scales.group = kNvfp4Group;
  } else {
    if ((stored.type != StorageType::f32 && stored.type != StorageType::u8) ||
        stored.shape[0] != rows || scales.columns < 1 || width % scales.columns != 0)
      wrong("F32 or U8 [tokens, groups]");
    scales.values = stored.type == StorageType::u8 ? decode<ue8m0>(stored.data) : to_float(stored);
    scales.group = width / scales.columns;
  }
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t column = 0; column < width; ++column)
      values[static_cast<std::size_t>(row * width + column)] *= scales.at(row, column);
  return values;
}

}  // namespace sotto::cli

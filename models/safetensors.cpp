#include "models/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "models/file_error.h"
#include "models/json.h"

namespace sotto::models {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

StorageType storage_type(const JsonView& dtype) {
  const std::string& name = dtype.text();
  if (name == "F32") return StorageType::f32;
  if (name == "F16") return StorageType::f16;
  if (name == "BF16") return StorageType::bf16;
  dtype.fail(excerpt(name) + " is not supported (supported: F32, F16, BF16)");
}

// Where in the data a tensor lies: [begin, end), and its name for what is wrong with that.
using Range = std::tuple<std::int64_t, std::int64_t, std::string>;

Range read_tensor(const JsonView& entry, const std::string& name, std::span<const std::byte> data,
                  TensorMap& tensors) {
  StoredTensor tensor{
      .file = entry.file(), .type = storage_type(entry.at("dtype")), .shape = {}, .data = {}};
  const JsonView shape = entry.at("shape");
  for (std::size_t i = 0; i < shape.array().size(); ++i) {
    tensor.shape.push_back(shape.element(i).integer());
  }
  const auto size = byte_size(tensor.type, tensor.shape);
  if (!size) shape.fail("has a negative dimension or overflows");

  const JsonView offsets = entry.at("data_offsets");
  if (offsets.array().size() != 2) offsets.fail("must be [begin, end]");
  const std::int64_t begin = offsets.element(0).integer();
  const std::int64_t end = offsets.element(1).integer();
  if (begin < 0 || end < begin || end > static_cast<std::int64_t>(data.size())) {
    offsets.fail(fmt::format("must have 0 <= begin <= end <= {} (the data's bytes), got [{}, {}]",
                             data.size(), begin, end));
  }
  if (end - begin != *size) {
    offsets.fail(fmt::format("[{}, {}] is {} bytes, but dtype and shape need {}", begin, end,
                             end - begin, *size));
  }
  tensor.data = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(*size));
  tensors.emplace(name, std::move(tensor));
  return {begin, end, name};
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const auto bytes = file_.bytes();
  std::uint64_t header_size = 0;
  if (bytes.size() < sizeof(header_size)) {
    throw FileError(name(), "header size", "the file ends before it");
  }
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  const std::uint64_t room = bytes.size() - sizeof(header_size);
  if (header_size > std::min(room, kMaxHeaderBytes)) {
    throw FileError(name(), "header size",
                    fmt::format("is {}, but must be at most {} and the file has {} bytes after it",
                                header_size, kMaxHeaderBytes, room));
  }
  const auto header =
      parse_json(name(), "header", file_.text().substr(sizeof(header_size), header_size));
  const auto data = bytes.subspan(sizeof(header_size) + header_size);

  std::vector<Range> ranges;
  const JsonView root(header, name(), "");
  if (!root.is_object()) throw FileError(name(), "header", "must be a JSON object");
  for (const auto& [tensor_name, value] : root.object().items()) {
    if (tensor_name == "__metadata__") continue;
    ranges.push_back(read_tensor(root.at(tensor_name), tensor_name, data, tensors_));
  }
  std::sort(ranges.begin(), ranges.end());
  std::int64_t covered = 0;
  for (const auto& [begin, end, tensor_name] : ranges) {
    if (begin != covered) {
      throw FileError(name(), tensor_name + ".data_offsets",
                      begin < covered
                          ? fmt::format("begins at {} and overlaps the tensor before it, which "
                                        "ends at {}",
                                        begin, covered)
                          : fmt::format("begins at {} and leaves a hole from {}", begin, covered));
    }
    covered = end;
  }
  if (covered != static_cast<std::int64_t>(data.size())) {
    throw FileError(
        name(), "header",
        fmt::format("the tensors cover {} of the {} bytes of data", covered, data.size()));
  }
}

}  // namespace sotto::models

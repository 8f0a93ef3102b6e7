#include "models/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "models/file_error.h"
#include "models/json.h"

namespace sotto::models {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

StorageType storage_type(const JsonView& dtype, std::span<const StorageType> allowed) {
  const std::string& name = dtype.text();
  std::vector<std::string_view> supported;
  for (const StorageType type : allowed) {
    if (name == storage_name(type)) return type;
    supported.push_back(storage_name(type));
  }
  dtype.fail(fmt::format("{} is not supported (supported: {})", excerpt(name),
                         fmt::join(supported, ", ")));
}

// Where in the data a tensor lies: [begin, end), and its name for what is wrong with that.
using Range = std::tuple<std::int64_t, std::int64_t, std::string>;

Range read_tensor(const JsonView& entry, const std::string& name, std::span<const std::byte> data,
                  std::span<const StorageType> allowed, TensorMap& tensors) {
  StoredTensor tensor{.file = entry.file(),
                      .type = storage_type(entry.at("dtype"), allowed),
                      .shape = {},
                      .data = {}};
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

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path,
                                 std::span<const StorageType> allowed)
    : file_(path) {
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
    ranges.push_back(read_tensor(root.at(tensor_name), tensor_name, data, allowed, tensors_));
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

void write_safetensors(std::ostream& file, const TensorMap& tensors) {
  std::vector<const TensorMap::value_type*> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  const auto width = [](const TensorMap::value_type* entry) {
    return *byte_size(entry->second.type, {});
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](const auto* a, const auto* b) { return width(a) > width(b); });
  auto header = nlohmann::ordered_json::object();
  std::size_t end = 0;
  for (const auto* entry : order) {
    const auto& [tensor_name, tensor] = *entry;
    const std::size_t begin = end;
    end += tensor.data.size();
    header[tensor_name] = {{"dtype", storage_name(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of 8
  const std::uint64_t header_size = text.size();
  file.write(reinterpret_cast<const char*>(&header_size), sizeof(header_size));
  file << text;
  for (const auto* entry : order) {
    const auto data = entry->second.data;
    file.write(reinterpret_cast<const char*>(data.data()),
               static_cast<std::streamsize>(data.size()));
  }
}

}  // namespace sotto::models

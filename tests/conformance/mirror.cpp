#include "mirror.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "aligned_memory.h"

namespace sotto::test {
namespace {

// From here on only rows have memory; as in Arena.
constexpr std::size_t kSparse = std::size_t{1} << 28;
// Bytes of a gap that are copied with the row before it.
constexpr std::size_t kGap = 16;

std::size_t span_of(const Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  std::int64_t last = 0;
  for (int d = 0; d < tensor.rank; ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return static_cast<std::size_t>((last + 1) * dtype_size(tensor.dtype));
}

// Where the numbers of a tensor lie, row by row.
std::vector<Piece> rows_of(const Tensor& tensor, std::size_t span) {
  const int last = tensor.rank - 1;
  const auto row_bytes = static_cast<std::size_t>(
      ((tensor.size(last) - 1) * tensor.stride(last) + 1) * dtype_size(tensor.dtype));
  std::vector<Piece> pieces;
  const std::int64_t rows = tensor.numel() / tensor.size(last);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t offset = 0, rest = row;
    for (int d = last - 1; d >= 0; --d) {
      offset += rest % tensor.size(d) * tensor.stride(d);
      rest /= tensor.size(d);
    }
    const auto begin = static_cast<std::size_t>(offset * dtype_size(tensor.dtype));
    pieces.push_back({begin, std::min(row_bytes + kGap, span - begin)});
  }
  return pieces;
}

}  // namespace

Device device_of(std::string_view backend) {
  if (backend == "sm90") return {DeviceType::cuda, current_gpu()};
  return {};
}

Tensor Mirror::place(const Tensor& host, const char* name, core::Access access) {
  Tensor tensor = host;
  tensor.device = device_;
  tensor.data = nullptr;
  const std::size_t bytes = span_of(host);
  if (bytes == 0) return tensor;
  Copy copy{.name = name, .access = access, .host = host.at(0), .device = {}, .pieces = {}};
  if (bytes < kSparse) {
    copy.pieces = {{0, bytes}};
    copy.device = allocate_on_gpu(bytes);
  } else {
    copy.pieces = rows_of(host, bytes);
    copy.device = reserve_on_gpu(bytes, copy.pieces);
  }
  for (const Piece& piece : copy.pieces) {
    copy_bytes(copy.device.get() + piece.offset, copy.host + piece.offset, piece.bytes);
  }
  tensor.data = copy.device.get();
  copies_.push_back(std::move(copy));
  return tensor;
}

Workspace Mirror::workspace(std::size_t bytes, int garbage) {
  if (device_.type == DeviceType::cpu) {
    const auto memory = std::make_shared<AlignedMemory>(bytes);
    workspaces_.emplace_back(memory, memory->span().data());
    std::memset(workspaces_.back().get(), garbage, bytes);
  } else {
    if (bytes == 0) return {};
    workspaces_.push_back(allocate_on_gpu(bytes));
    fill_bytes(workspaces_.back().get(), garbage, bytes);
  }
  return {workspaces_.back().get(), bytes};
}

void Mirror::read_back() {
  if (device_.type == DeviceType::cpu) return;
  finish_gpu();
  std::vector<std::byte> now;
  for (const Copy& copy : copies_) {
    for (const Piece& piece : copy.pieces) {
      std::byte* const host = copy.host + piece.offset;
      const std::byte* const device = copy.device.get() + piece.offset;
      if (copy.access == core::Access::write) {
        copy_bytes(host, device, piece.bytes);
        continue;
      }
      now.resize(piece.bytes);
      copy_bytes(now.data(), device, piece.bytes);
      if (std::memcmp(now.data(), host, piece.bytes) != 0) {
        throw std::runtime_error(std::string("an input was written: ") + copy.name);
      }
    }
  }
}

}  // namespace sotto::test

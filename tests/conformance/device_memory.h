// Memory of the current GPU for test tensors. In builds without CUDA all of it throws.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace sotto::test {

// A part of a block, in bytes.
struct Piece {
  std::size_t offset, bytes;
};

int current_gpu();

// Memory of exactly so many bytes: compute-sanitizer sees one too far.
std::shared_ptr<std::byte> allocate_on_gpu(std::size_t bytes);
// Addresses of so many bytes, with memory under the pieces alone: an access elsewhere is an error.
std::shared_ptr<std::byte> reserve_on_gpu(std::size_t bytes, const std::vector<Piece>& pieces);

// Between host and device either way.
void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes);
void fill_bytes(std::byte* device_memory, int value, std::size_t bytes);

// Waits for everything under way there; throws what went wrong.
void finish_gpu();

}  // namespace sotto::test

// Tensors of tokens as quantize(), channel_mean() and append_kv() walk them: sequences, cut into
// tiles for the threads, and each row after RoPE and Hadamard.
#pragma once

#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "cpu/transform.h"
#include "sotto/quantize.h"

namespace sotto::cpu {

struct TokenSequence {
  std::int64_t index = 0;
  core::Placement place;  // in the tensor that is read
  std::int64_t rows = 0;  // tokens that there is room for
  std::int64_t len = 0;   // of them valid
};

// Tensors as in QuantizeArgs.
std::vector<TokenSequence> token_sequences(const Tensor& x, const Tensor& cu_seqlens,
                                           const Tensor& seqused = {});

inline std::int64_t heads_of(const Tensor& x) { return x.size(x.rank - 2); }
inline std::int64_t dim_of(const Tensor& x) { return x.size(x.rank - 1); }

// Whether a head's tokens lie closer together than a token's heads.
inline bool is_head_major(const Tensor& x) { return x.stride(x.rank - 2) > x.stride(x.rank - 3); }

// Part of a sequence: tokens [begin, end) of heads [head_begin, head_end).
struct Tile {
  const TokenSequence* sequence = nullptr;
  std::int64_t begin = 0, end = 0;
  std::int64_t head_begin = 0, head_end = 0;
};

// All rows of some sequences in tiles of up to `tokens` tokens.
class Tiles {
 public:
  // `sequences` must outlive this. one_head: tiles of one head instead of all.
  Tiles(const std::vector<TokenSequence>& sequences, std::int64_t tokens, std::int64_t heads,
        bool one_head);

  std::int64_t count() const { return first_.back(); }
  Tile at(std::int64_t i) const;

 private:
  const std::vector<TokenSequence>* sequences_;
  std::int64_t tokens_, heads_, heads_per_tile_;
  std::vector<std::int64_t> first_;  // tile of each sequence; one more than sequences
};

// [offset, offset + n) of the last dimension of a float tensor with the stride of that dimension;
// copied to `buffer` where they are not contiguous.
const float* channels(const Tensor& tensor, std::int64_t offset, std::vector<float>& buffer);

// A row of a [batch, heads, dim] tensor of parameters; null where the tensor is absent.
inline const float* head_channels(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                                  std::vector<float>& buffer) {
  if (!tensor) return nullptr;
  return channels(tensor, batch * tensor.stride(0) + head * tensor.stride(1), buffer);
}

// Reads rows of `x`, transformed. One for each thread at a time: it holds the row.
class RowReader {
 public:
  // x and rope must outlive this. descale: of a quantised x.
  RowReader(const Tensor& x, const Rope& rope, bool hadamard, const Scale& descale = {});

  // The row of (token, head) after RoPE and Hadamard; the next read overwrites it. `position`
  // chooses the row of cos and sin unless rope.positions does.
  float* read(const TokenSequence& sequence, std::int64_t token, std::int64_t head,
              std::int64_t position);

 private:
  RopeRow rope_row(const TokenSequence& sequence, std::int64_t token, std::int64_t position);

  const Tensor& x_;
  const Rope& rope_;
  Scale descale_;
  bool hadamard_;
  std::vector<float> row_, cos_, sin_;
};

}  // namespace sotto::cpu

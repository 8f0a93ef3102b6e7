#include "cpu/rows.h"

#include <algorithm>

namespace sotto::cpu {

std::vector<TokenSequence> token_sequences(const Tensor& x, const Tensor& cu_seqlens,
                                           const Tensor& seqused) {
  const std::int64_t batch = cu_seqlens ? cu_seqlens.size(0) - 1 : x.size(0);
  std::vector<TokenSequence> sequences(static_cast<std::size_t>(batch));
  for (std::int64_t b = 0; b < batch; ++b) {
    TokenSequence& s = sequences[static_cast<std::size_t>(b)];
    s.index = s.place.index = b;
    if (cu_seqlens) {
      s.place.packed = true;
      s.place.begin = core::int_at(cu_seqlens, b);
      s.rows = core::int_at(cu_seqlens, b + 1) - s.place.begin;
    } else {
      s.rows = x.size(1);
    }
    s.len = seqused ? core::int_at(seqused, b) : s.rows;
  }
  return sequences;
}

Tiles::Tiles(const std::vector<TokenSequence>& sequences, std::int64_t tokens, std::int64_t heads,
             bool one_head)
    : sequences_(&sequences),
      tokens_(tokens),
      heads_(heads),
      heads_per_tile_(one_head ? 1 : heads),
      first_{0} {
  first_.reserve(sequences.size() + 1);
  for (const TokenSequence& s : sequences) {
    const std::int64_t blocks = s.rows / tokens + (s.rows % tokens != 0);
    first_.push_back(first_.back() + blocks * (heads_ / heads_per_tile_));
  }
}

Tile Tiles::at(std::int64_t i) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), i);
  const auto sequence = static_cast<std::size_t>(after - first_.begin() - 1);
  const std::int64_t within = i - first_[sequence];
  const std::int64_t head_tiles = heads_ / heads_per_tile_;
  Tile tile;
  tile.sequence = &(*sequences_)[sequence];
  tile.begin = within / head_tiles * tokens_;
  tile.end = tile.begin + std::min(tokens_, tile.sequence->rows - tile.begin);
  tile.head_begin = within % head_tiles * heads_per_tile_;
  tile.head_end = tile.head_begin + heads_per_tile_;
  return tile;
}

const float* channels(const Tensor& tensor, std::int64_t offset, std::vector<float>& buffer) {
  const float* data = static_cast<const float*>(tensor.data) + offset;
  const std::int64_t stride = tensor.stride(tensor.rank - 1);
  if (stride == 1) return data;
  buffer.resize(static_cast<std::size_t>(dim_of(tensor)));
  for (std::size_t i = 0; i < buffer.size(); ++i) {
    buffer[i] = data[static_cast<std::int64_t>(i) * stride];
  }
  return buffer.data();
}

RowReader::RowReader(const Tensor& x, const Rope& rope, bool hadamard, const Scale& descale)
    : x_(x),
      rope_(rope),
      descale_(descale),
      hadamard_(hadamard),
      row_(static_cast<std::size_t>(dim_of(x))) {}

float* RowReader::read(const TokenSequence& sequence, std::int64_t token, std::int64_t head,
                       std::int64_t position) {
  RowSource source;
  source.dtype = x_.dtype;
  source.data = x_.at(core::row_offset(x_, sequence.place, token, head));
  if (descale_) {
    const core::ScaleRows scales(descale_, sequence.place, sequence.index, heads_of(x_));
    source.descale = scales.at(head, token);
  }
  if (rope_) source.rope = rope_row(sequence, token, position);
  source.hadamard = hadamard_;
  transform_row(source, dim_of(x_), row_.data());
  return row_.data();
}

RopeRow RowReader::rope_row(const TokenSequence& sequence, std::int64_t token,
                            std::int64_t position) {
  if (const Tensor& positions = rope_.positions) {
    const std::int64_t batch = positions.size(0) == 1 ? 0 : sequence.index;
    const std::int64_t offset = sequence.place.packed
                                    ? (sequence.place.begin + token) * positions.stride(0)
                                    : batch * positions.stride(0) + token * positions.stride(1);
    position = static_cast<const std::int32_t*>(positions.data)[offset];
  }
  const std::int64_t rotary_dim = rope_.rotary_dim == 0 ? dim_of(x_) : rope_.rotary_dim;
  RopeRow row;
  row.cos = channels(rope_.cos, position * rope_.cos.stride(0), cos_);
  row.sin = channels(rope_.sin, position * rope_.sin.stride(0), sin_);
  row.pairs = rotary_dim / 2;
  row.interleaved = rope_.interleaved;
  row.per_channel = rope_.cos.size(1) == rotary_dim;
  return row;
}

}  // namespace sotto::cpu

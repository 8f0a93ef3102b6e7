#include "cpu/quantize.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/element.h"
#include "core/parallel.h"
#include "core/scaling.h"
#include "cpu/rows.h"

namespace sotto::cpu {
namespace {

// Tiles follow memory: some tokens with all their heads, or more of one head.
constexpr std::int64_t kTokensPerTile = 16;
constexpr std::int64_t kTokensPerHeadTile = 128;

// Calls f with a reference to each element of a float tensor.
template <class F>
void for_each_value(const Tensor& tensor, F&& f, int dimension = 0, std::int64_t offset = 0) {
  if (dimension == tensor.rank) return f(static_cast<float*>(tensor.data)[offset]);
  for (std::int64_t i = 0; i < tensor.size(dimension); ++i) {
    for_each_value(tensor, f, dimension + 1, offset + i * tensor.stride(dimension));
  }
}

// An atomic maximum: tiles of one share meet here, in any order with the same result.
void raise_to(float& largest_so_far, float candidate) {
  std::atomic_ref<float> largest(largest_so_far);
  float seen = largest.load(std::memory_order_relaxed);
  while (candidate > seen &&
         !largest.compare_exchange_weak(seen, candidate, std::memory_order_relaxed)) {
  }
}

class Quantizer {
 public:
  explicit Quantizer(const QuantizeArgs& args)
      : args_(args),
        heads_(heads_of(args.x)),
        dim_(dim_of(args.x)),
        largest_(args.out.dtype == Dtype::i8 ? core::kInt8Max : e4m3::kMax) {}

  void run() const;

 private:
  float scale_of(float amax) const;
  core::ScaleRows scales_of(const Tile& tile) const {
    return {args_.descale, tile.sequence->place, tile.sequence->index, heads_};
  }
  // Collects the tile's amax in the scales' own memory.
  void find_amax(const Tile& tile) const;
  // Rounds a tile. token_scales: each row by its own amax, else by the scales as they stand.
  void write(const Tile& tile, bool token_scales) const;
  void write_dot(const Tile& tile, std::int64_t token, std::int64_t head, const float* row,
                 std::vector<float>& buffer) const;

  const QuantizeArgs& args_;
  std::int64_t heads_, dim_;
  float largest_;
};

// The largest magnitude of each scale's share must be known before the first of its elements is
// rounded: all rows are transformed twice, which is cheaper than keeping them. A token's row is at
// hand when its scale is needed: once.
void Quantizer::run() const {
  const Tensor& values = args_.descale.values;
  const bool per_token = values && args_.descale.granularity == Granularity::token;
  const std::vector<TokenSequence> sequences =
      token_sequences(args_.x, args_.cu_seqlens, args_.seqused);
  const bool one_head = is_head_major(args_.x);
  const Tiles tiles(sequences, one_head ? kTokensPerHeadTile : kTokensPerTile, heads_, one_head);
  const auto for_each_tile = [&](auto&& f) {
    core::parallel_for(tiles.count(), [&](std::int64_t i) { f(tiles.at(i)); });
  };

  if (per_token) {
    for_each_value(values, [](float& scale) { scale = 1.0f; });
  } else if (values) {
    for_each_value(values, [](float& scale) { scale = 0.0f; });
    for_each_tile([&](const Tile& tile) { find_amax(tile); });
    for_each_value(values, [&](float& scale) { scale = scale_of(scale); });
  }
  for_each_tile([&](const Tile& tile) { write(tile, per_token); });
}

float Quantizer::scale_of(float amax) const {
  const float scale = core::scale_of(amax, largest_);
  return args_.power_of_two ? core::round_up_to_power_of_two(scale) : scale;
}

void Quantizer::find_amax(const Tile& tile) const {
  const core::ScaleRows scales = scales_of(tile);
  const TokenSequence& sequence = *tile.sequence;
  const std::int64_t end = std::min(tile.end, sequence.len);
  RowReader reader(args_.x, args_.rope, args_.hadamard);
  std::vector<float> mean_buffer, amax(static_cast<std::size_t>(heads_));
  for (std::int64_t run = tile.begin, run_end = 0; run < end; run = run_end) {
    run_end = scales.run_end(run, end);
    std::fill(amax.begin(), amax.end(), 0.0f);
    for (std::int64_t token = run; token < run_end; ++token) {
      for (std::int64_t head = tile.head_begin; head < tile.head_end; ++head) {
        float* row = reader.read(sequence, token, head, token);
        const float* mean = head_channels(args_.mean, sequence.index, head, mean_buffer);
        float& so_far = amax[static_cast<std::size_t>(head)];
        so_far = std::max(so_far, center_row(row, mean, dim_));
      }
    }
    for (std::int64_t head = tile.head_begin; head < tile.head_end; ++head) {
      raise_to(*scales.pointer(head, run), amax[static_cast<std::size_t>(head)]);
    }
  }
}

void Quantizer::write(const Tile& tile, bool token_scales) const {
  const core::ScaleRows scales = scales_of(tile);
  const TokenSequence& sequence = *tile.sequence;
  RowReader reader(args_.x, args_.rope, args_.hadamard);
  std::vector<float> buffer;
  for (std::int64_t token = tile.begin; token < tile.end; ++token) {
    for (std::int64_t head = tile.head_begin; head < tile.head_end; ++head) {
      RowTarget target;
      target.dtype = args_.out.dtype;
      target.data = args_.out.at(core::row_offset(args_.out, sequence.place, token, head));
      if (args_.out_lo) {
        target.lo = reinterpret_cast<e4m3*>(
            args_.out_lo.at(core::row_offset(args_.out_lo, sequence.place, token, head)));
      }
      if (token >= sequence.len) {
        const auto elements = static_cast<std::size_t>(dim_);
        std::memset(target.data, 0, elements * static_cast<std::size_t>(dtype_size(target.dtype)));
        if (target.lo != nullptr) std::fill_n(target.lo, elements, e4m3(0.0f));
        write_dot(tile, token, head, nullptr, buffer);
        continue;
      }
      float* row = reader.read(sequence, token, head, token);
      if (args_.dot_before_mean) write_dot(tile, token, head, row, buffer);
      const float* mean = head_channels(args_.mean, sequence.index, head, buffer);
      const float amax = center_row(row, mean, dim_);
      if (!args_.dot_before_mean) write_dot(tile, token, head, row, buffer);
      if (token_scales) *scales.pointer(head, token) = scale_of(amax);
      target.descale = scales.at(head, token);
      store_row(row, dim_, target);
    }
  }
}

// row null: a token that does not count.
void Quantizer::write_dot(const Tile& tile, std::int64_t token, std::int64_t head, const float* row,
                          std::vector<float>& buffer) const {
  if (!args_.dot) return;
  const TokenSequence& sequence = *tile.sequence;
  const std::int64_t heads_with = args_.dot_with.size(1);
  const std::int64_t dots = std::max<std::int64_t>(1, heads_with / heads_);  // of each of x's heads
  const std::int64_t sharing = std::max<std::int64_t>(1, heads_ / heads_with);
  for (std::int64_t out_head = head * dots; out_head < (head + 1) * dots; ++out_head) {
    float dot = 0.0f;
    if (row != nullptr) {
      const float* with = head_channels(args_.dot_with, sequence.index, out_head / sharing, buffer);
      dot = dot_row(row, with, dim_, args_.dot_scale);
    }
    static_cast<float*>(args_.dot.data)[core::head_major_offset(
        args_.dot, sequence.place, sequence.index, out_head, token)] = dot;
  }
}

}  // namespace

void quantize(const QuantizeArgs& args) { Quantizer(args).run(); }

}  // namespace sotto::cpu

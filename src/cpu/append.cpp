#include "cpu/append.h"

#include "core/element.h"
#include "core/parallel.h"
#include "core/scaling.h"
#include "cpu/rows.h"

namespace sotto::cpu {
namespace {

constexpr std::int64_t kTokensPerTile = 16;

// K or V on its way into its cache.
struct Operand {
  const Tensor& x;
  const Tensor& cache;
  const Scale& descale;
  const Rope& rope;
  bool hadamard = false;
  const Tensor& mean;
};

core::Placement cache_placement(const AppendKvArgs& args, std::int64_t sequence) {
  core::Placement place;
  place.index = args.batch_idx ? core::int_at(args.batch_idx, sequence) : sequence;
  if (const Tensor& table = args.page_table) {
    place.pages = static_cast<const std::int32_t*>(table.data) + sequence * table.stride(0);
    place.page_stride = table.stride(1);
    place.page_size = args.k_cache.size(1);
  }
  return place;
}

void append_tile(const AppendKvArgs& args, const Operand& operand, const Tile& tile) {
  const std::int64_t dim = dim_of(operand.x), sequence = tile.sequence->index;
  const core::Placement place = cache_placement(args, sequence);
  const core::ScaleRows scales(operand.descale, place, sequence, heads_of(operand.x));
  const bool writes_scale = core::is_quantized(operand.cache.dtype) && operand.descale &&
                            operand.descale.granularity == Granularity::token;
  const float largest = operand.cache.dtype == Dtype::i8 ? core::kInt8Max : e4m3::kMax;
  RowReader reader(operand.x, operand.rope, operand.hadamard);
  std::vector<float> mean_buffer;
  for (std::int64_t token = tile.begin; token < tile.end; ++token) {
    const std::int64_t position = core::int_at(args.cache_seqlens, sequence) + token;
    for (std::int64_t head = tile.head_begin; head < tile.head_end; ++head) {
      float* row = reader.read(*tile.sequence, token, head, position);
      const float* mean = head_channels(operand.mean, sequence, head, mean_buffer);
      const float amax = center_row(row, mean, dim);
      if (writes_scale) *scales.pointer(head, position) = core::scale_of(amax, largest);
      RowTarget target;
      target.dtype = operand.cache.dtype;
      target.data = operand.cache.at(core::row_offset(operand.cache, place, position, head));
      target.descale = scales.at(head, position);
      store_row(row, dim, target);
    }
  }
}

}  // namespace

void append_kv(const AppendKvArgs& args) {
  const Rope none;
  const Operand operands[] = {
      {args.k, args.k_cache, args.k_descale, args.rope, args.hadamard_k, args.k_mean},
      {args.v, args.v_cache, args.v_descale, none, args.hadamard_v, args.v_mean},
  };
  const std::vector<TokenSequence> sequences = token_sequences(args.k, args.cu_seqlens);
  const Tiles tiles(sequences, kTokensPerTile, heads_of(args.k), false);
  core::parallel_for(tiles.count() * 2,
                     [&](std::int64_t i) { append_tile(args, operands[i % 2], tiles.at(i / 2)); });
}

}  // namespace sotto::cpu

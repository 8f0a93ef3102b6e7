#include "cpu/channel_mean.h"

#include <algorithm>

#include "core/parallel.h"
#include "cpu/rows.h"

namespace sotto::cpu {
namespace {

// The sums of a tile are added up in the order of the tokens, whatever thread made them: the same
// bits for any number of threads.
constexpr std::int64_t kTokensPerTile = 512;

struct Sums {
  std::vector<double> sum, count;
};

}  // namespace

void channel_mean(const ChannelMeanArgs& args) {
  std::vector<TokenSequence> sequences = token_sequences(args.x, args.cu_seqlens, args.seqused);
  for (TokenSequence& s : sequences) {
    if (args.max_tokens > 0) s.len = std::min(s.len, args.max_tokens);
    s.rows = s.len;
  }
  const std::int64_t heads = heads_of(args.x), dim = dim_of(args.x);
  const Tiles tiles(sequences, kTokensPerTile, heads, true);
  std::vector<Sums> parts(static_cast<std::size_t>(tiles.count()));
  core::parallel_for(tiles.count(), [&](std::int64_t i) {
    const Tile tile = tiles.at(i);
    Sums& part = parts[static_cast<std::size_t>(i)];
    part.sum.resize(static_cast<std::size_t>(dim));
    part.count.resize(static_cast<std::size_t>(dim));
    RowReader reader(args.x, args.rope, args.hadamard, args.descale);
    for (std::int64_t token = tile.begin; token < tile.end; ++token) {
      const float* row = reader.read(*tile.sequence, token, tile.head_begin, token);
      accumulate_row(row, dim, part.sum.data(), part.count.data());
    }
  });

  const std::size_t channels_in_all = sequences.size() * static_cast<std::size_t>(heads * dim);
  Sums total{std::vector<double>(channels_in_all), std::vector<double>(channels_in_all)};
  for (std::int64_t i = 0; i < tiles.count(); ++i) {
    const Tile tile = tiles.at(i);
    const Sums& part = parts[static_cast<std::size_t>(i)];
    const auto first =
        static_cast<std::size_t>((tile.sequence->index * heads + tile.head_begin) * dim);
    for (std::size_t c = 0; c < part.sum.size(); ++c) {
      total.sum[first + c] += part.sum[c];
      total.count[first + c] += part.count[c];
    }
  }
  float* mean = static_cast<float*>(args.mean.data);
  std::size_t c = 0;
  for (const TokenSequence& s : sequences) {
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t channel = 0; channel < dim; ++channel, ++c) {
        mean[s.index * args.mean.stride(0) + head * args.mean.stride(1) +
             channel * args.mean.stride(2)] =
            total.count[c] > 0.0 ? static_cast<float>(total.sum[c] / total.count[c]) : 0.0f;
      }
    }
  }
}

}  // namespace sotto::cpu

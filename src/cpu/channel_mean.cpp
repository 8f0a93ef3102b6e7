#include "cpu/channel_mean.h"

#include <algorithm>

#include "core/parallel.h"
#include "cpu/reduce_rows.h"
#include "cpu/rows.h"

namespace sotto::cpu {
namespace {

// Sums of so many tokens are added up in the order of the tokens: the same bits for any number of
// threads and any grouping of heads.
constexpr std::int64_t kTokensPerSum = 512;

// Channels whose sums a thread holds.
constexpr std::int64_t kChannels = 2048;
static_assert(kChannels >= kMaxDim);

struct Sums {
  double sum[kChannels];
  double count[kChannels];
};

void clear(Sums& sums, std::int64_t channels) {
  std::fill_n(sums.sum, channels, 0.0);
  std::fill_n(sums.count, channels, 0.0);
}

// The means of heads [head_begin, head_end) of one sequence.
void mean_of_heads(const ChannelMeanArgs& args, const RowReader& reader, Panel panel) {
  const std::int64_t dim = dim_of(args.x), channels = panel.counts(dim).heads * dim;
  const std::int64_t len =
      args.max_tokens > 0 ? std::min(panel.sequence.len, args.max_tokens) : panel.sequence.len;
  const std::int64_t tokens_at_once =
      std::clamp<std::int64_t>(PanelBuffer::kFloats / 4 / std::max<std::int64_t>(1, channels), 1,
                               PanelBuffer::kRows / panel.counts(dim).heads);
  PanelBuffer buffer;
  Sums total, part;
  clear(total, channels);
  for (std::int64_t begin = 0; begin < len; begin += kTokensPerSum) {
    const std::int64_t end = std::min(begin + kTokensPerSum, len);
    clear(part, channels);
    for (panel.begin = begin; panel.begin < end; panel.begin = panel.end) {
      panel.end = std::min(panel.begin + tokens_at_once, end);
      const RowGrid rows = reader.read(panel, panel.begin, buffer);
      accumulate_rows(rows, panel.counts(dim), buffer.ranges(), part.sum, part.count);
    }
    for (std::int64_t c = 0; c < channels; ++c) {
      total.sum[c] += part.sum[c];
      total.count[c] += part.count[c];
    }
  }
  float* mean = static_cast<float*>(args.mean.data) + panel.sequence.index * args.mean.stride(0);
  for (std::int64_t c = 0; c < channels; ++c) {
    mean[(panel.head_begin + c / dim) * args.mean.stride(1) + c % dim * args.mean.stride(2)] =
        total.count[c] > 0.0 ? static_cast<float>(total.sum[c] / total.count[c]) : 0.0f;
  }
}

}  // namespace

void channel_mean(const ChannelMeanArgs& args) {
  const std::int64_t batch = args.mean.size(0), heads = heads_of(args.x), dim = dim_of(args.x);
  const RowReader reader(args.x, args.rope, args.hadamard, {}, args.descale);
  // Neighbouring heads together, as memory has them, as long as every thread gets some.
  const std::int64_t most_heads =
      std::min(PanelBuffer::kRows, kChannels / std::max<std::int64_t>(1, dim));
  const std::int64_t heads_at_once =
      std::clamp<std::int64_t>(batch * heads / (2 * core::max_workers()), 1, most_heads);
  const std::int64_t parts = core::ceil_div(heads, heads_at_once);
  core::parallel_for(batch * parts, [&](std::int64_t i) {
    Panel panel;
    panel.sequence = token_sequence(args.x, args.cu_seqlens, args.seqused, i / parts);
    panel.head_begin = i % parts * heads_at_once;
    panel.head_end = std::min(panel.head_begin + heads_at_once, heads);
    mean_of_heads(args, reader, panel);
  });
}

}  // namespace sotto::cpu

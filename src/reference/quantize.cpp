#include "reference/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "core/element.h"
#include "core/scaling.h"

namespace sotto::reference {
namespace {

double float_at(const Tensor& tensor, std::int64_t offset) {
  return static_cast<const float*>(tensor.data)[offset];
}

// [batch, heads, dim]
double mean_at(const Tensor& mean, std::int64_t sequence, std::int64_t head, std::size_t channel) {
  return float_at(mean, sequence * mean.stride(0) + head * mean.stride(1) +
                            static_cast<std::int64_t>(channel) * mean.stride(2));
}

std::int64_t position_of(const Rope& rope, const core::Placement& place, std::int64_t sequence,
                         std::int64_t token, std::int64_t otherwise) {
  const Tensor& positions = rope.positions;
  if (!positions) return otherwise;
  if (place.packed) return core::int_at(positions, place.begin + token);
  const std::int64_t batch = positions.size(0) == 1 ? 0 : sequence;
  return static_cast<const std::int32_t*>(
      positions.data)[batch * positions.stride(0) + token * positions.stride(1)];
}

void rotate_row(std::vector<double>& x, const Rope& rope, std::int64_t position) {
  const auto dim = static_cast<std::int64_t>(x.size());
  const std::int64_t rotary_dim = rope.rotary_dim == 0 ? dim : rope.rotary_dim;
  const std::int64_t half = rotary_dim / 2;
  const bool factor_per_channel = rope.cos.size(1) == rotary_dim;
  for (std::int64_t pair = 0; pair < half; ++pair) {
    const std::int64_t first = rope.interleaved ? 2 * pair : pair;
    const std::int64_t second = rope.interleaved ? 2 * pair + 1 : pair + half;
    const auto factor = [&](const Tensor& table, std::int64_t channel) {
      const std::int64_t column = factor_per_channel ? channel : pair;
      return float_at(table, position * table.stride(0) + column * table.stride(1));
    };
    double& x0 = x[static_cast<std::size_t>(first)];
    double& x1 = x[static_cast<std::size_t>(second)];
    const double y0 = x0 * factor(rope.cos, first) - x1 * factor(rope.sin, first);
    const double y1 = x1 * factor(rope.cos, second) + x0 * factor(rope.sin, second);
    x0 = y0;
    x1 = y1;
  }
}

// Calls f(place, sequence, token, head, valid) for every row of every sequence.
using RowFunction =
    std::function<void(const core::Placement&, std::int64_t, std::int64_t, std::int64_t, bool)>;
void for_each_row(const Tensor& x, const Tensor& cu_seqlens, const Tensor& seqused,
                  const RowFunction& f) {
  const std::int64_t batch = cu_seqlens ? cu_seqlens.size(0) - 1 : x.size(0);
  for (std::int64_t b = 0; b < batch; ++b) {
    core::Placement place;
    place.index = b;
    std::int64_t rows = cu_seqlens ? 0 : x.size(1);
    if (cu_seqlens) {
      place.packed = true;
      place.begin = core::int_at(cu_seqlens, b);
      rows = core::int_at(cu_seqlens, b + 1) - place.begin;
    }
    const std::int64_t len = seqused ? core::int_at(seqused, b) : rows;
    for (std::int64_t token = 0; token < rows; ++token) {
      for (std::int64_t head = 0; head < x.size(x.rank - 2); ++head) {
        f(place, b, token, head, token < len);
      }
    }
  }
}

void set_all(const Tensor& tensor, float value, int dimension = 0, std::int64_t offset = 0) {
  if (dimension == tensor.rank) {
    static_cast<float*>(tensor.data)[offset] = value;
    return;
  }
  for (std::int64_t i = 0; i < tensor.size(dimension); ++i) {
    set_all(tensor, value, dimension + 1, offset + i * tensor.stride(dimension));
  }
}

std::vector<double> row_of(const QuantizeArgs& args, const core::Placement& place,
                           std::int64_t sequence, std::int64_t token, std::int64_t head) {
  return transformed_row(args.x, {}, args.rope, args.hadamard, place, sequence, token, head, token);
}

void write_scales(const QuantizeArgs& args) {
  std::map<float*, float> amax;
  for_each_row(args.x, args.cu_seqlens, args.seqused,
               [&](const core::Placement& place, std::int64_t sequence, std::int64_t token,
                   std::int64_t head, bool valid) {
                 if (!valid) return;
                 const core::ScaleRows scales(args.descale, place, sequence,
                                              args.x.size(args.x.rank - 2));
                 float& slot = amax[scales.pointer(head, token)];
                 const auto row = row_of(args, place, sequence, token, head);
                 for (float x : centered_row(row, args.mean, sequence, head)) {
                   slot = std::max(slot, core::finite_magnitude(x));
                 }
               });
  set_all(args.descale.values, 1.0f);
  for (const auto& [slot, largest] : amax) {
    const float scale = core::scale_of(largest, largest_of(args.out.dtype));
    *slot = args.power_of_two ? core::round_up_to_power_of_two(scale) : scale;
  }
}

// out_lo: what rounding to e4m3 lost of values / descale, which saturates at ±448.
std::vector<float> rounding_errors(const std::vector<float>& values, float descale) {
  std::vector<float> errors;
  for (float x : values) {
    const float scaled = x / descale;
    const float in_range =
        std::isnan(scaled) ? scaled : std::clamp(scaled, -e4m3::kMax, e4m3::kMax);
    errors.push_back(in_range - static_cast<float>(e4m3(in_range)));
  }
  return errors;
}

void write_dots(const QuantizeArgs& args, const core::Placement& place, std::int64_t sequence,
                std::int64_t token, std::int64_t head, std::vector<double> row, bool valid) {
  if (!args.dot) return;
  if (valid && args.mean && !args.dot_before_mean) {
    for (std::size_t c = 0; c < row.size(); ++c) row[c] -= mean_at(args.mean, sequence, head, c);
  }
  const std::int64_t heads = args.x.size(args.x.rank - 2), heads_with = args.dot_with.size(1);
  const std::int64_t out_heads = std::max(heads, heads_with);
  for (std::int64_t out_head = 0; out_head < out_heads; ++out_head) {
    if (out_head / (out_heads / heads) != head) continue;
    double dot = 0.0;
    for (std::size_t c = 0; c < row.size(); ++c) {
      dot += row[c] * mean_at(args.dot_with, sequence, out_head / (out_heads / heads_with), c);
    }
    static_cast<float*>(
        args.dot.data)[core::head_major_offset(args.dot, place, sequence, out_head, token)] =
        core::saturated_float(args.dot_scale * dot);
  }
}

}  // namespace

void hadamard_row(double* x, std::int64_t dim) {
  std::int64_t n = 1;
  while (n < 256 && dim % (2 * n) == 0) n *= 2;
  for (std::int64_t begin = 0; begin < dim; begin += n) {
    const std::vector<double> in(x + begin, x + begin + n);
    for (std::int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (std::int64_t j = 0; j < n; ++j) {
        const bool negative = std::popcount(static_cast<std::uint64_t>(i & j)) % 2 != 0;
        const double term = in[static_cast<std::size_t>(j)];
        sum += negative ? -term : term;
      }
      x[begin + i] = sum / std::sqrt(static_cast<double>(n));
    }
  }
}

std::vector<double> transformed_row(const Tensor& x, const Scale& descale, const Rope& rope,
                                    bool hadamard, const core::Placement& place,
                                    std::int64_t sequence, std::int64_t token, std::int64_t head,
                                    std::int64_t position) {
  const std::int64_t dim = x.size(x.rank - 1);
  std::vector<float> stored(static_cast<std::size_t>(dim));
  core::load_row(x.dtype, x.at(core::row_offset(x, place, token, head)), dim, stored.data());
  const core::ScaleRows scales(descale, place, sequence, x.size(x.rank - 2));
  std::vector<double> row;
  for (float value : stored) row.push_back(static_cast<double>(value) * scales.at(head, token));
  if (rope) rotate_row(row, rope, position_of(rope, place, sequence, token, position));
  if (hadamard) hadamard_row(row.data(), dim);
  return row;
}

std::vector<float> centered_row(const std::vector<double>& row, const Tensor& mean,
                                std::int64_t sequence, std::int64_t head) {
  std::vector<float> centered;
  for (std::size_t c = 0; c < row.size(); ++c) {
    centered.push_back(
        core::saturated_float(mean ? row[c] - mean_at(mean, sequence, head, c) : row[c]));
  }
  return centered;
}

float largest_of(Dtype dtype) { return dtype == Dtype::i8 ? core::kInt8Max : e4m3::kMax; }

void write_row(const Tensor& out, std::int64_t offset, const std::vector<float>& values,
               float descale) {
  core::with_element_type(out.dtype, [&]<class T>(T) {
    T* data = reinterpret_cast<T*>(out.at(offset));
    for (std::size_t c = 0; c < values.size(); ++c) {
      if constexpr (std::is_same_v<T, std::int8_t>) {
        data[c] = core::int8_from(values[c] / descale);
      } else if constexpr (std::is_same_v<T, e4m3>) {
        data[c] = e4m3(values[c] / descale);
      } else {
        data[c] = static_cast<T>(values[c]);
      }
    }
  });
}

void quantize(const QuantizeArgs& args) {
  if (args.descale) write_scales(args);
  const std::int64_t heads = args.x.size(args.x.rank - 2);
  const auto dim = static_cast<std::size_t>(args.x.size(args.x.rank - 1));
  for_each_row(args.x, args.cu_seqlens, args.seqused,
               [&](const core::Placement& place, std::int64_t sequence, std::int64_t token,
                   std::int64_t head, bool valid) {
                 const std::vector<double> row =
                     valid ? row_of(args, place, sequence, token, head) : std::vector<double>(dim);
                 const std::vector<float> values =
                     valid ? centered_row(row, args.mean, sequence, head) : std::vector<float>(dim);
                 const core::ScaleRows scales(args.descale, place, sequence, heads);
                 const float descale = scales.at(head, token);
                 write_row(args.out, core::row_offset(args.out, place, token, head), values,
                           descale);
                 if (args.out_lo) {
                   write_row(args.out_lo, core::row_offset(args.out_lo, place, token, head),
                             rounding_errors(values, descale), 1.0f);
                 }
                 write_dots(args, place, sequence, token, head, row, valid);
               });
}

void channel_mean(const ChannelMeanArgs& args) {
  const std::int64_t heads = args.x.size(args.x.rank - 2);
  const auto dim = static_cast<std::size_t>(args.x.size(args.x.rank - 1));
  const auto batch = static_cast<std::size_t>(args.mean.size(0));
  std::vector<double> sum(batch * static_cast<std::size_t>(heads) * dim), count(sum.size());
  for_each_row(
      args.x, args.cu_seqlens, args.seqused,
      [&](const core::Placement& place, std::int64_t sequence, std::int64_t token,
          std::int64_t head, bool valid) {
        if (!valid || (args.max_tokens > 0 && token >= args.max_tokens)) return;
        const std::vector<double> row = transformed_row(
            args.x, args.descale, args.rope, args.hadamard, place, sequence, token, head, token);
        for (std::size_t c = 0; c < dim; ++c) {
          if (!std::isfinite(row[c])) continue;
          const std::size_t at = static_cast<std::size_t>(sequence * heads + head) * dim + c;
          sum[at] += row[c];
          count[at] += 1.0;
        }
      });
  for (std::size_t at = 0; at < sum.size(); ++at) {
    const auto channel = static_cast<std::int64_t>(at % dim);
    const auto head = static_cast<std::int64_t>(at / dim) % heads;
    const auto sequence = static_cast<std::int64_t>(at / dim) / heads;
    static_cast<float*>(
        args.mean.data)[sequence * args.mean.stride(0) + head * args.mean.stride(1) +
                        channel * args.mean.stride(2)] =
        count[at] > 0.0 ? core::saturated_float(sum[at] / count[at]) : 0.0f;
  }
}

}  // namespace sotto::reference

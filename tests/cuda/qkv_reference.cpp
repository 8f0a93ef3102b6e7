#include "qkv_reference.h"

#include "sotto/quantize.h"

namespace sotto::test {
namespace {

// Of the sequence's tokens, as the quantiser counts them.
std::vector<std::int32_t> positions_of(const QkvData& data, Operand operand, int b) {
  const bool q = operand == Operand::q;
  const int length = data.used(operand, b);
  if (data.c.positions) {
    const int first = data.c.packed ? data.first(operand, b) : b * data.len(operand, 0);
    const auto all = (q ? data.positions_q : data.positions_k).host<std::int32_t>();
    return {all.begin() + first, all.begin() + first + length};
  }
  const int offset =
      q && data.c.bottom_right ? data.used(Operand::k, b) - data.used(Operand::q, b) : 0;
  std::vector<std::int32_t> positions;
  for (int i = 0; i < length; ++i) positions.push_back(std::max(0, i + offset));
  return positions;
}

HostTensor rows_of(const QkvData& data, Operand operand, int b) {
  const DeviceTensor& x = operand == Operand::q ? data.q : operand == Operand::k ? data.k : data.v;
  const std::int64_t heads = x.shape()[x.shape().size() - 2], dim = x.shape().back();
  const std::int64_t first =
      data.c.packed ? data.first(operand, b) : std::int64_t{b} * data.len(operand, 0);
  HostTensor rows(data.c.dtype, {1, data.used(operand, b), heads, dim});
  for (std::int64_t i = 0; i < rows.numel(); ++i) rows.set(i, x.get(first * heads * dim + i));
  return rows;
}

}  // namespace

float QuantizedRows::scale_at(int head, int token) const {
  const Tensor& shaped = codes;
  const std::int64_t heads = shaped.size(2), blocks = (shaped.size(1) + 127) / 128;
  switch (granularity) {
    case Granularity::token:
      return scale.get(token * heads + head);
    case Granularity::block:
      return scale.get(head * blocks + token / 128);
    default:
      return scale.get(head);
  }
}

QuantizedRows quantize_on_cpu(const QkvData& data, Operand operand, int b,
                              const HostTensor& k_mean) {
  const Recipe& recipe = data.options.recipe;
  const bool q = operand == Operand::q, v = operand == Operand::v;
  const HostTensor rows = rows_of(data, operand, b);
  QuantizeArgs args{.x = rows};
  const std::int64_t length = args.x.size(1), heads = args.x.size(2), dim = args.x.size(3);
  args.backend = "cpu";
  HostTensor positions;
  if (!v && data.options.rope) {
    args.rope = data.options.rope;
    args.rope.cos = data.cos.host_view();
    args.rope.sin = data.sin.host_view();
    positions = HostTensor::ints(positions_of(data, operand, b));
    args.rope.positions = Tensor(positions.view().data, Dtype::i32, {1, length});
  }
  args.hadamard =
      recipe.hadamard == Hadamard::qkv || recipe.hadamard == (v ? Hadamard::v_only : Hadamard::qk);

  QuantizedRows result;
  if (operand == Operand::k ? recipe.smooth_k : v && recipe.v_mean) {
    result.mean = HostTensor(Dtype::f32, {1, heads, dim});
    ChannelMeanArgs mean{.x = rows, .mean = result.mean};
    mean.max_tokens = v ? 0 : 1024;
    mean.rope = args.rope;
    mean.hadamard = args.hadamard;
    mean.backend = "cpu";
    channel_mean(mean);
    args.mean = result.mean;
  }
  if (q && k_mean.numel() > 0 && data.c.lse) {
    result.dot = HostTensor(Dtype::f32, {1, heads, length});
    args.dot_with = k_mean;
    args.dot = result.dot;
    args.dot_scale = data.problem.scale;
  }
  result.values = HostTensor(Dtype::f32, {1, length, heads, dim});
  args.out = result.values;
  quantize(args);

  args.dot = args.dot_with = {};
  const bool int8 = !v && recipe.qk == QkFormat::int8;
  result.codes = HostTensor(int8 ? Dtype::i8 : Dtype::e4m3, {1, length, heads, dim});
  args.out = result.codes;
  result.granularity = q ? recipe.q_scale : v ? recipe.v_scale : recipe.k_scale;
  switch (result.granularity) {
    case Granularity::token:
      result.scale = HostTensor(Dtype::f32, {1, length, heads});
      args.descale = Scale::per_token(result.scale);
      break;
    case Granularity::block:
      result.scale = HostTensor(Dtype::f32, {1, heads, (length + 127) / 128});
      args.descale = Scale::per_block(result.scale, 128);
      break;
    default:
      result.scale = HostTensor(Dtype::f32, {1, heads});
      args.descale = Scale::per_head(result.scale);
  }
  args.power_of_two = v && recipe.v_scale_power_of_two;
  quantize(args);
  return result;
}

}  // namespace sotto::test

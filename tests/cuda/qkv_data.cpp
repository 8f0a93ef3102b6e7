#include "qkv_data.h"

#include <cmath>
#include <limits>
#include <numeric>

namespace sotto::test {

QkvData::QkvData(const QkvCase& of) : c(of), random_(std::hash<std::string>()(of.name)) {
  q = make(Operand::q, c.heads_q, c.dim_qk, 0.5f);
  k = make(Operand::k, c.heads_kv, c.dim_qk, 2.0f);
  v = make(Operand::v, c.heads_kv, c.dim_v, 1.0f);
  args.q = q.device();
  args.k = k.device();
  args.v = v.device();
  std::vector<std::int64_t> shape(q.shape());
  shape.back() = c.dim_v;
  out_ = DeviceTensor(Dtype::bf16, shape);
  args.out = out_.device();
  if (c.bottom_right) args.mask = Mask::causal_bottom_right();
  if (c.lse) {
    const std::int64_t tokens = q.shape()[c.packed ? 0 : 1];
    lse_ = c.packed ? DeviceTensor(Dtype::f32, {c.heads_q, tokens})
                    : DeviceTensor(Dtype::f32, {c.batch, c.heads_q, tokens});
    args.lse = lse_.device();
  }
  if (c.packed) {
    cu_q_ = make_offsets(Operand::q);
    cu_k_ = make_offsets(Operand::k);
    args.seq.cu_seqlens_q = cu_q_.device();
    args.seq.cu_seqlens_k = cu_k_.device();
  }
  if (c.seqused) {
    used_q_ = make_used(Operand::q);
    used_k_ = make_used(Operand::k);
    args.seq.seqused_q = used_q_.device();
    args.seq.seqused_k = used_k_.device();
  }
  options.recipe = Recipe::parse(c.recipe);
  if (c.rope != RopeForm::none) make_rope();
  problem = describe(args);
}

int QkvData::len(Operand operand, int b) const {
  const std::vector<int>& lens = operand == Operand::q ? c.lens_q : c.lens_k;
  return lens[c.packed ? static_cast<std::size_t>(b) : 0];
}
int QkvData::first(Operand operand, int b) const {
  const std::vector<int>& lens = operand == Operand::q ? c.lens_q : c.lens_k;
  return c.packed ? std::accumulate(lens.begin(), lens.begin() + b, 0) : 0;
}
int QkvData::used(Operand operand, int b) const {
  return c.seqused ? len(operand, b) * 2 / 3 : len(operand, b);
}

DeviceTensor QkvData::make(Operand operand, int heads, int dim, float bias) {
  const int tokens = c.packed ? first(operand, batch()) : len(operand, 0);
  std::vector<std::int64_t> shape{tokens, heads, dim};
  if (!c.packed) shape.insert(shape.begin(), c.batch);
  DeviceTensor tensor(c.dtype, shape, c.padding);
  std::normal_distribution<float> normal;
  std::vector<float> biases(static_cast<std::size_t>(heads * dim));
  for (float& x : biases) x = bias * normal(random_);
  tensor.fill([&](std::int64_t i) {
    if (c.special && random_() % 997 == 0) {
      const float values[] = {std::nanf(""), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()};
      return values[random_() % 3];
    }
    return normal(random_) + biases[static_cast<std::size_t>(i % (heads * dim))];
  });
  return tensor;
}

DeviceTensor QkvData::make_offsets(Operand operand) const {
  std::vector<std::int32_t> offsets;
  for (int b = 0; b <= batch(); ++b) offsets.push_back(first(operand, b));
  return DeviceTensor(offsets);
}
DeviceTensor QkvData::make_used(Operand operand) const {
  std::vector<std::int32_t> all;
  for (int b = 0; b < batch(); ++b) all.push_back(used(operand, b));
  return DeviceTensor(all);
}
DeviceTensor QkvData::make_positions(Operand operand, int positions) {
  const int count = c.packed ? first(operand, batch()) : c.batch * len(operand, 0);
  std::vector<std::int32_t> all;
  for (int i = 0; i < count; ++i) {
    all.push_back(static_cast<int>(random_() % static_cast<unsigned>(positions)));
  }
  DeviceTensor tensor(all);
  if (!c.packed) tensor.reshape({c.batch, len(operand, 0)});
  return tensor;
}

void QkvData::make_rope() {
  constexpr int kPositions = 2000;
  const int rotary_dim = c.rope == RopeForm::partial ? c.dim_qk / 2 + 2 : c.dim_qk;
  const int width = c.rope == RopeForm::per_channel ? rotary_dim : rotary_dim / 2;
  cos = DeviceTensor(Dtype::f32, {kPositions, width});
  sin = DeviceTensor(Dtype::f32, {kPositions, width});
  const auto angle = [&](std::int64_t i) {
    const double pair = static_cast<double>(i % width % (rotary_dim / 2));
    return static_cast<double>(i / width) * std::pow(10000.0, -2.0 * pair / rotary_dim);
  };
  cos.fill([&](std::int64_t i) { return static_cast<float>(std::cos(angle(i))); });
  sin.fill([&](std::int64_t i) { return static_cast<float>(std::sin(angle(i))); });
  Rope& rope = options.rope;
  rope.cos = cos.device();
  rope.sin = sin.device();
  rope.interleaved = c.rope == RopeForm::interleaved;
  if (rotary_dim != c.dim_qk) rope.rotary_dim = rotary_dim;
  if (!c.positions) return;
  positions_q = make_positions(Operand::q, kPositions);
  positions_k = make_positions(Operand::k, kPositions);
  rope.positions = positions_q.device();
  options.positions_k = positions_k.device();
}

}  // namespace sotto::test

#include "attention_case.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "spec.h"

namespace sotto::test {
namespace {

Operand operand(Dtype dtype, const std::string& scale) {
  Operand operand{.dtype = dtype};
  if (scale == "tensor") {
    operand.granularity = Granularity::tensor;
  } else if (scale == "kv_head") {
    operand.granularity = Granularity::kv_head;
  } else if (scale == "token") {
    operand.granularity = Granularity::token;
  } else if (scale.starts_with("block")) {
    operand.granularity = Granularity::block;
    operand.block = std::stoll(scale.substr(5));
  } else if (scale == "broadcast") {
    operand.broadcast = true;
  } else if (scale == "absent") {
    operand.absent = true;
  } else if (scale != "head") {
    throw std::invalid_argument("no granularity " + scale);
  }
  return operand;
}

Mask mask_of(Spec& spec) {
  Mask mask;
  if (spec.has("causal")) mask = Mask::causal();
  if (spec.has("causal_br")) mask = Mask::causal_bottom_right();
  if (spec.has("window")) {
    const auto sides = spec.parts("window", "");
    mask = Mask::window(std::stoll(sides.at(0)), std::stoll(sides.at(1)));
  }
  if (spec.has("band")) {
    const auto sides = spec.parts("band", "");
    mask = {.left = std::stoll(sides.at(0)), .right = std::stoll(sides.at(1))};
  }
  return mask;
}

std::vector<std::int64_t> lengths(Spec& spec, const std::string& key, std::int64_t otherwise,
                                  std::int64_t batch) {
  std::vector<std::int64_t> list = spec.list(key, {otherwise});
  if (list.size() == 1) list.assign(static_cast<std::size_t>(batch), list.front());
  if (list.size() != static_cast<std::size_t>(batch)) {
    throw std::invalid_argument(key + " needs one length or one for each sequence");
  }
  return list;
}

bool differ(const std::vector<std::int64_t>& lengths) {
  return std::adjacent_find(lengths.begin(), lengths.end(), std::not_equal_to<>()) != lengths.end();
}

}  // namespace

Dtype dtype_named(const std::string& name) {
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::e4m3, Dtype::i8}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  if (name == "bool") return Dtype::boolean;
  throw std::invalid_argument("no dtype " + name);
}

AttentionCase::AttentionCase(const std::string& text) : line(text) {
  Spec spec(text);
  batch = static_cast<std::int64_t>(spec.number("b", 1));
  len_q = lengths(spec, "q", 64, batch);
  len_k = lengths(spec, "k", 128, batch);
  const auto heads = spec.parts("h", "2");
  heads_q = std::stoll(heads.front());
  heads_kv = std::stoll(heads.back());
  const auto dims = spec.parts("d", "64");
  dim_qk = std::stoll(dims.front());
  dim_v = std::stoll(dims.back());

  const auto in = spec.parts("in", "f32");
  q = operand(dtype_named(in.front()), spec.text("sq", "head"));
  k = operand(dtype_named(in.at(in.size() / 2)), spec.text("sk", "head"));
  v = operand(dtype_named(in.back()), spec.text("sv", "head"));

  order = order_of(spec);
  packed_k = spec.has("packed");
  packed_q = spec.has("packed_q") || packed_k;
  batch_idx = spec.has("batch_idx");
  max_len = spec.has("max_len");
  page_size = static_cast<std::int64_t>(spec.number("paged", 0));
  padding_q = spec.has("padded_q") ? 3 : 0;
  padding_k = spec.has("padded_k") ? 5 : 0;
  if (!packed_q && differ(len_q) && padding_q == 0) {
    throw std::invalid_argument("different lengths need packed or padded_q: " + text);
  }
  if (!packed_k && page_size == 0 && differ(len_k) && padding_k == 0) {
    throw std::invalid_argument("different lengths need packed, paged or padded_k: " + text);
  }

  mask = mask_of(spec);
  if (spec.has("dense")) {
    const auto words = split(spec.text("dense", ""), ':');
    dense = dtype_named(words.at(0));
    dense_batch = words.at(1) == "b";
    dense_heads = words.at(2) == "h";
  }
  if (spec.has("scale")) scale = static_cast<float>(spec.number("scale", 0));
  softcap = static_cast<float>(spec.number("softcap", 0));
  sinks = spec.has("sinks");
  lse = spec.has("lse");
  fast = spec.has("fast");
  splits = static_cast<int>(spec.number("splits", 0));
  accumulation = spec.has("plain") ? Accumulation::plain : Accumulation::safe;

  const std::string hadamard = spec.text("had", "");
  hadamard_qk = hadamard == "qk" || hadamard == "qkv";
  hadamard_v = hadamard == "qkv" || hadamard == "v_only";
  row_bias = spec.has("row_bias");
  k_mean = spec.has("k_mean") || row_bias;
  q_mean = spec.has("q_mean");
  v_mean = spec.has("v_mean");
  v_lo = spec.has("v_lo");

  if (spec.has("sdpa")) recipe = Recipe::parse(spec.text("sdpa", ""));
  rope = RopeWords(spec, dim_qk);

  const auto out = split(spec.text("out", "f32"), ':');
  const auto out_has = [&](const std::string& word) {
    return std::find(out.begin() + 1, out.end(), word) != out.end();
  };
  group = 0;
  if (out[0].starts_with("groups")) {
    output = OutputKind::fp8_groups;
    dtype_out = Dtype::e4m3;
    group = std::stoll(out[0].substr(6));
  } else if (out[0] == "nvfp4") {
    output = OutputKind::nvfp4;
    dtype_out = Dtype::e2m1x2;
    group = 16;
  } else {
    dtype_out = dtype_named(out[0]);
    output = dtype_out == Dtype::e4m3 ? OutputKind::fp8 : OutputKind::plain;
  }
  ue8m0_scales = out_has("ue8m0");
  column_major = out_has("col");
  padded_scales = out_has("pad");
  range = static_cast<float>(spec.number("range", 1));

  data = spec.text("data", "normal");
  if (spec.has("db")) least_db = spec.number("db", 0);
  slack_db = spec.number("slack", 0);
  spec.finish();
}

std::int64_t AttentionCase::total(const std::vector<std::int64_t>& lengths,
                                  std::int64_t padding) const {
  return std::accumulate(lengths.begin(), lengths.end(), padding * batch);
}

std::int64_t AttentionCase::capacity_q() const {
  if (packed_q && !max_len) return total(len_q, padding_q);
  return *std::max_element(len_q.begin(), len_q.end()) + padding_q;
}

std::int64_t AttentionCase::capacity_k() const {
  if (page_size > 0) return pages_per_sequence() * page_size;
  if (packed_k && !max_len) return total(len_k, padding_k);
  return *std::max_element(len_k.begin(), len_k.end()) + padding_k;
}

std::int64_t AttentionCase::pages_per_sequence() const {
  return *std::max_element(len_k.begin(), len_k.end()) / page_size + 2;
}

bool AttentionCase::quantized() const {
  if (recipe) return recipe->qk != QkFormat::exact || recipe->v != VFormat::exact;
  return dtype_size(k.dtype) == 1 || dtype_size(v.dtype) == 1;
}

bool AttentionCase::p_e4m3() const {
  if (recipe) return recipe->v != VFormat::exact;
  return v.dtype == Dtype::e4m3 && !(dtype_size(q.dtype) > 1 && dtype_size(k.dtype) == 1);
}

}  // namespace sotto::test

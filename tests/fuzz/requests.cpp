#include "requests.h"

#include <algorithm>

#include "core/each_tensor.h"

namespace sotto::fuzz {
namespace {

using core::each_tensor;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

bool is_8_bit(Dtype dtype) { return dtype == Dtype::e4m3 || dtype == Dtype::i8; }

}  // namespace

void Requests::spoil(Tensor& tensor) {
  const auto dimension = [&] { return static_cast<std::size_t>(in_.between(0, 3)); };
  const bool keeps_memory = in_.one_in(4);
  switch (in_.between(0, 8)) {
    case 0:
      tensor.data = nullptr;
      return;
    case 1:  // alignment
      if (keeps_memory) return;
      tensor.data = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(tensor.data) | 1);
      return;
    case 2:
      tensor.dtype = static_cast<Dtype>(in_.between(0, 10));
      break;
    case 3:
      tensor.device.type =
          in_.flag() ? DeviceType::cuda : static_cast<DeviceType>(in_.between(0, 3));
      tensor.device.index = in_.bits<std::int8_t>();
      return;
    case 4:
      tensor.rank = in_.bits<std::int8_t>() % 8;
      break;
    case 5:
      tensor.strides[dimension()] = in_.odd_number();
      break;
    case 6:
      tensor.strides[dimension()] = 0;
      break;
    default:
      tensor.shape[dimension()] = in_.odd_number();
  }
  memory_.back(tensor);
}

template <class Args>
void Requests::spoil_some(Args& args) {
  int count = 0;
  each_tensor(args, [&](const char*, core::Access, Tensor&) { ++count; });
  for (std::int64_t n = in_.one_of({0, 0, 0, 1, 1, 2, 4}); n > 0; --n) {
    std::int64_t which = in_.between(0, count - 1);
    each_tensor(args, [&](const char*, core::Access, Tensor& tensor) {
      if (which-- == 0) spoil(tensor);
    });
  }
}

Requests::Tokens Requests::tokens(std::int64_t batch, std::int64_t most, bool packed) {
  Tokens tokens{.batch = batch, .packed = packed};
  tokens.len = in_.between(0, most);
  tokens.offsets.push_back(0);
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto len = static_cast<std::int32_t>(packed ? in_.between(0, most) : tokens.len);
    tokens.lengths.push_back(static_cast<std::int32_t>(in_.between(0, len)));  // that are used
    tokens.offsets.push_back(tokens.offsets.back() + len);
  }
  tokens.rows = packed ? tokens.offsets.back() : batch;
  if (packed) tokens.len = tokens.rows;
  return tokens;
}

Tensor Requests::tensor(Dtype dtype, std::vector<std::int64_t> shape) {
  Tensor t;
  t.dtype = dtype;
  t.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), t.shape.begin());
  const bool gaps = in_.one_in(8);
  std::int64_t stride = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    t.strides[d] = stride;
    stride = stride * std::max<std::int64_t>(shape[d], 1) + (gaps ? 1 : 0);
  }
  memory_.back(t);
  return t;
}

Tensor Requests::token_tensor(Dtype dtype, const Tokens& tokens, std::int64_t heads,
                              std::int64_t dim) {
  if (tokens.packed) return tensor(dtype, {tokens.rows, heads, dim});
  if (!in_.one_in(4)) return tensor(dtype, {tokens.batch, tokens.len, heads, dim});
  return tensor(dtype, {tokens.batch, heads, tokens.len, dim}).transposed(1, 2);
}

Tensor Requests::ints(const std::vector<std::int32_t>& values) {
  Tensor t(nullptr, Dtype::i32, {static_cast<std::int64_t>(values.size())});
  memory_.back(t, values);
  return t;
}

Tensor Requests::table(std::int64_t rows, std::int64_t columns, std::int64_t below) {
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    values.push_back(static_cast<std::int32_t>(i % std::max<std::int64_t>(below, 1)));
  }
  if (!values.empty() && in_.one_in(4)) {
    values[static_cast<std::size_t>(in_.between(0, 255)) % values.size()] =
        static_cast<std::int32_t>(in_.odd_number());
  }
  Tensor t(nullptr, Dtype::i32, {rows, columns});
  memory_.back(t, values);
  return t;
}

Scale Requests::scale(const Tensor& of, const Tokens& tokens, std::int64_t heads_kv) {
  if (!is_8_bit(of.dtype) && !in_.one_in(16)) return {};
  const std::int64_t heads = of.size(of.rank - 2);
  switch (in_.between(0, 5)) {
    case 0:
      return Scale::per_tensor(tensor(Dtype::f32, {1}));
    case 1:
      return Scale::per_head(tensor(Dtype::f32, {tokens.batch, heads}));
    case 2:
      return Scale::per_kv_head(tensor(Dtype::f32, {tokens.batch, heads_kv}));
    case 3:
      return Scale::per_token(tokens.packed ? tensor(Dtype::f32, {tokens.rows, heads})
                                            : tensor(Dtype::f32, {of.size(0), of.size(1), heads}));
    case 4: {
      const std::int64_t block = in_.one_of<std::int64_t>({1, 3, 16, 128});
      if (!tokens.packed) {
        return Scale::per_block(
            tensor(Dtype::f32, {tokens.batch, heads, (tokens.len + block - 1) / block}), block);
      }
      std::vector<std::int32_t> blocks{0};
      for (std::size_t b = 0; b + 1 < tokens.offsets.size(); ++b) {
        const auto len = tokens.offsets[b + 1] - tokens.offsets[b];
        blocks.push_back(blocks.back() + static_cast<std::int32_t>((len + block - 1) / block));
      }
      return Scale::per_block(tensor(Dtype::f32, {heads, blocks.back()}), block, ints(blocks));
    }
    default:
      return {};
  }
}

Tensor Requests::head_major(const Tokens& tokens, std::int64_t heads) {
  return tokens.packed ? tensor(Dtype::f32, {heads, tokens.rows})
                       : tensor(Dtype::f32, {tokens.batch, heads, tokens.len});
}

Rope Requests::rope(const Tokens& tokens, std::int64_t dim) {
  Rope rope;
  if (!in_.one_in(3)) return rope;
  const std::int64_t rotary = in_.flag() ? dim : in_.between(0, dim);
  const std::int64_t positions = in_.between(1, 80);
  rope.rotary_dim = in_.flag() ? 0 : rotary;
  const std::int64_t width = in_.flag() ? dim : rotary / 2;
  rope.cos = tensor(Dtype::f32, {positions, width});
  rope.sin = tensor(Dtype::f32, {positions, width});
  rope.interleaved = in_.flag();
  if (in_.flag()) {
    rope.positions = tokens.packed
                         ? ints(std::vector<std::int32_t>(static_cast<std::size_t>(tokens.rows), 3))
                         : table(tokens.batch, tokens.len, positions);
  }
  return rope;
}

OutputQuant Requests::output(const Tensor& out, std::int64_t rows, std::int64_t heads,
                             std::int64_t dim) {
  OutputQuant output;
  if (out.dtype == Dtype::e2m1x2) {
    output.group_scale = tensor(Dtype::e4m3, {round_up(rows, 128), round_up(heads * dim / 16, 4)});
  }
  if (out.dtype == Dtype::e4m3 && in_.flag()) {
    const std::int64_t group = in_.one_of({64, 128});
    output.group_scale =
        tensor(in_.flag() ? Dtype::f32 : Dtype::ue8m0, {rows, heads * dim / group});
  } else if (out.dtype == Dtype::e4m3 || out.dtype == Dtype::e2m1x2) {
    output.scale = tensor(Dtype::f32, {1});
  }
  return output;
}

AttentionArgs Requests::attention(For whom) {
  AttentionArgs args;
  const std::int64_t batch = in_.between(0, 3);
  const std::int64_t heads_kv = in_.between(1, 3), heads_q = heads_kv * in_.between(1, 3);
  const std::int64_t dim_v = head_size();
  dim_qk_ = in_.flag() ? dim_v : head_size();
  const bool sdpa = whom == For::sdpa;  // takes fewer dtypes and layouts
  const auto layout = in_.between(0, sdpa ? 2 : 5);
  q_ = tokens(batch, in_.one_of({1, 5, 70}), layout == 1 || layout == 2 || in_.one_in(8));
  k_ = tokens(batch, in_.one_of({4, 20, 150}), layout == 1);

  Dtype q = real(), k = q, v = q;
  switch (in_.between(0, sdpa ? 0 : 4)) {
    case 0:
      break;
    case 1:
      q = k = v = Dtype::e4m3;
      break;
    case 2:
      q = k = Dtype::i8;
      v = Dtype::e4m3;
      break;
    case 3:
      k = in_.one_of({Dtype::e4m3, Dtype::i8});
      v = in_.one_of({Dtype::e4m3, q});
      break;
    default:
      v = in_.one_of({Dtype::e4m3, Dtype::f16});
  }

  std::int64_t page_size = 0;
  Tokens stored = k_;  // K and V as they lie in memory
  if (layout == 3) {
    page_size = in_.one_of({1, 3, 16, 64});
    const std::int64_t pages = in_.between(1, 4);
    args.cache.page_table = table(batch, pages, 6);
    stored.batch = 6;
    stored.len = page_size;
    k_.len = pages * page_size;
  } else if (layout == 4) {
    stored.batch = 4;
    std::vector<std::int32_t> rows;
    for (std::int64_t b = 0; b < batch; ++b) {
      rows.push_back(
          static_cast<std::int32_t>(in_.one_in(16) ? in_.odd_number() : in_.between(0, 3)));
    }
    args.cache.batch_idx = ints(rows);
  }

  args.q = token_tensor(q, q_, heads_q, dim_qk_);
  args.k = token_tensor(k, stored, heads_kv, dim_qk_);
  args.v = token_tensor(v, stored, heads_kv, dim_v);
  const Dtype out = in_.one_of({Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::e4m3, Dtype::e2m1x2});
  args.out = token_tensor(out, q_, heads_q, out == Dtype::e2m1x2 ? dim_v / 2 : dim_v);
  const std::int64_t rows_q = q_.packed ? q_.rows : q_.batch * q_.len;
  args.output = output(args.out, rows_q, heads_q, dim_v);
  if (in_.flag()) args.lse = head_major(q_, heads_q);
  args.descale = {.q = scale(args.q, q_, heads_kv),
                  .k = scale(args.k, k_, heads_kv),
                  .v = scale(args.v, k_, heads_kv)};

  if (q_.packed) args.seq.cu_seqlens_q = ints(q_.offsets);
  if (k_.packed) args.seq.cu_seqlens_k = ints(k_.offsets);
  if (in_.one_in(3)) args.seq.seqused_q = ints(q_.lengths);
  if (in_.one_in(3) || page_size > 0) args.seq.seqused_k = ints(k_.lengths);
  if (in_.one_in(8)) spoil(args.seq.max_len_q);
  if (in_.one_in(8)) spoil(args.seq.max_len_k);

  args.mask.left = in_.flag() ? -1 : in_.between(0, 40);
  args.mask.right = in_.flag() ? -1 : in_.between(0, 40);
  if (in_.one_in(16)) spoil(args.mask.left);
  if (in_.one_in(16)) spoil(args.mask.right);
  args.mask.align = in_.flag() ? Mask::Align::top_left : Mask::Align::bottom_right;
  if (in_.one_in(8)) {
    args.mask.dense = tensor(in_.one_of({Dtype::boolean, Dtype::f32, Dtype::bf16, Dtype::f16}),
                             {in_.flag() ? 1 : batch, in_.flag() ? 1 : heads_q, q_.len, k_.len});
  }
  if (in_.one_in(8)) spoil(args.scale.emplace());
  if (in_.one_in(4)) args.softcap = 20.0f;
  if (in_.one_in(16)) spoil(args.softcap);
  if (in_.one_in(4)) args.sinks = tensor(Dtype::f32, {heads_q});
  const auto prepared = [&] { return in_.one_in(sdpa ? 64 : 8); };
  if (prepared()) args.smoothing.k_mean = tensor(Dtype::f32, {batch, heads_kv, dim_qk_});
  if (prepared()) args.smoothing.v_mean = tensor(Dtype::f32, {batch, heads_kv, dim_v});
  if (prepared()) args.smoothing.row_bias = head_major(q_, heads_q);
  if (prepared()) args.smoothing.key_bias = head_major(k_, heads_q);
  if (v == Dtype::e4m3 && prepared()) {
    args.v_lo = token_tensor(Dtype::e4m3, stored, heads_kv, dim_v);
  }
  args.hadamard_v = prepared();
  args.num_splits = in_.one_in(4) ? in_.bits<std::int8_t>() : 0;
  args.fast = in_.one_in(8);
  if (in_.one_in(64)) spoil(args.dropout_p);
  if (in_.one_in(64)) args.alibi_slopes = tensor(Dtype::f32, {heads_q});
  args.needs_backward = in_.one_in(64);
  spoil_some(args);
  return args;
}

void Requests::change_contents(AttentionArgs& args) {
  for (Tensor* t : {&args.seq.cu_seqlens_q, &args.seq.cu_seqlens_k, &args.seq.seqused_q,
                    &args.seq.seqused_k, &args.cache.page_table, &args.cache.batch_idx}) {
    const bool whole = *t && t->dtype == Dtype::i32 && t->data != nullptr && t->numel() != 0 &&
                       reinterpret_cast<std::uintptr_t>(t->data) % sizeof(std::int32_t) == 0;
    if (!whole || !in_.flag()) continue;
    const std::int64_t first = in_.between(0, 255) % t->size(0);
    const std::int64_t second = t->rank > 1 ? in_.between(0, 255) % t->size(1) : 0;
    reinterpret_cast<std::int32_t*>(
        t->at(first * t->stride(0) + second * (t->rank > 1 ? t->stride(1) : 0)))[0] =
        static_cast<std::int32_t>(in_.odd_number());
  }
}

SdpaOptions Requests::sdpa_options() {
  SdpaOptions options;
  Recipe& recipe = options.recipe;
  recipe = in_.one_of(
      {Recipe::exact(), Recipe::fp8(), Recipe::fp8_hadamard(), Recipe::int8qk(), Recipe::high()});
  const auto granularity = [&](Granularity& g) {
    if (in_.one_in(4)) g = static_cast<Granularity>(in_.between(0, 4));
  };
  granularity(recipe.q_scale);
  granularity(recipe.k_scale);
  granularity(recipe.v_scale);
  if (in_.one_in(4)) recipe.hadamard = static_cast<Hadamard>(in_.between(0, 3));
  for (bool* member : {&recipe.v_scale_power_of_two, &recipe.smooth_k, &recipe.smooth_q,
                       &recipe.v_mean, &recipe.fast}) {
    if (in_.one_in(4)) *member = in_.flag();
  }
  options.rope = rope(q_, dim_qk_);
  if (options.rope && in_.flag()) {
    options.positions_k =
        k_.packed ? ints(std::vector<std::int32_t>(static_cast<std::size_t>(k_.rows), 1))
                  : table(k_.batch, k_.len, options.rope.cos.size(0));
  }
  each_tensor(options.rope, [&](const char*, core::Access, Tensor& tensor) {
    if (in_.one_in(16)) spoil(tensor);
  });
  return options;
}

QuantizeArgs Requests::quantize() {
  QuantizeArgs args;
  const Tokens x = tokens(in_.between(0, 3), in_.one_of({1, 20, 150}), in_.flag());
  const std::int64_t heads = in_.between(1, 4), dim = head_size();
  args.x = token_tensor(real(), x, heads, dim);
  args.out = token_tensor(in_.one_of({Dtype::e4m3, Dtype::i8, Dtype::f32, Dtype::bf16, Dtype::f16}),
                          x, heads, dim);
  args.descale = scale(args.out, x, heads % 2 == 0 ? heads / 2 : heads);
  if (args.out.dtype == Dtype::e4m3 && in_.one_in(3)) {
    args.out_lo = token_tensor(Dtype::e4m3, x, heads, dim);
  }
  args.power_of_two = in_.flag();
  args.rope = rope(x, dim);
  args.hadamard = in_.flag();
  if (in_.one_in(3)) args.mean = tensor(Dtype::f32, {x.batch, heads, dim});
  if (in_.one_in(3)) {
    const std::int64_t with = in_.flag() ? heads : 2 * heads;
    args.dot_with = tensor(Dtype::f32, {x.batch, with, dim});
    args.dot = head_major(x, with);
    args.dot_before_mean = in_.flag();
  }
  if (x.packed) args.cu_seqlens = ints(x.offsets);
  if (in_.one_in(3)) args.seqused = ints(x.lengths);
  spoil_some(args);
  return args;
}

ChannelMeanArgs Requests::channel_mean() {
  ChannelMeanArgs args;
  const Tokens x = tokens(in_.between(0, 3), in_.one_of({1, 20, 150}), in_.flag());
  const std::int64_t heads = in_.between(1, 4), dim = head_size();
  args.x = token_tensor(in_.flag() ? real() : in_.one_of({Dtype::e4m3, Dtype::i8}), x, heads, dim);
  args.mean = tensor(Dtype::f32, {x.batch, heads, dim});
  args.descale = scale(args.x, x, heads);
  args.max_tokens = in_.flag() ? 0 : in_.odd_number();
  args.rope = rope(x, dim);
  args.hadamard = in_.flag();
  if (x.packed) args.cu_seqlens = ints(x.offsets);
  if (in_.one_in(3)) args.seqused = ints(x.lengths);
  spoil_some(args);
  return args;
}

AppendKvArgs Requests::append() {
  AppendKvArgs args;
  const Tokens added = tokens(in_.between(0, 3), in_.one_of({1, 20}), in_.flag());
  const std::int64_t heads = in_.between(1, 3), dim_k = head_size(), dim_v = head_size();
  const std::int64_t capacity = in_.one_of({1, 3, 16, 40});
  Tokens cached{.batch = added.batch, .len = capacity};
  if (in_.flag()) {
    cached.batch = 7;
    args.page_table = table(added.batch, in_.between(1, 3), 7);
  } else if (in_.one_in(3)) {
    cached.batch = 4;
    std::vector<std::int32_t> rows;
    for (std::int64_t b = 0; b < added.batch; ++b) rows.push_back(static_cast<std::int32_t>(b));
    args.batch_idx = ints(rows);
  }
  args.k = token_tensor(real(), added, heads, dim_k);
  args.v = token_tensor(real(), added, heads, dim_v);
  args.k_cache = token_tensor(in_.one_of({Dtype::f32, Dtype::bf16, Dtype::e4m3, Dtype::i8}), cached,
                              heads, dim_k);
  args.v_cache = token_tensor(in_.one_of({Dtype::f16, Dtype::e4m3}), cached, heads, dim_v);
  std::vector<std::int32_t> lengths;
  for (std::int64_t b = 0; b < added.batch; ++b) {
    lengths.push_back(
        static_cast<std::int32_t>(in_.one_in(8) ? in_.odd_number() : in_.between(0, capacity)));
  }
  args.cache_seqlens = ints(lengths);
  args.k_descale = scale(args.k_cache, cached, heads);
  args.v_descale = scale(args.v_cache, cached, heads);
  if (added.packed) args.cu_seqlens = ints(added.offsets);
  args.rope = rope(added, dim_k);
  args.hadamard_k = in_.flag();
  args.hadamard_v = in_.flag();
  if (in_.one_in(4)) args.k_mean = tensor(Dtype::f32, {added.batch, heads, dim_k});
  if (in_.one_in(4)) args.v_mean = tensor(Dtype::f32, {added.batch, heads, dim_v});
  spoil_some(args);
  return args;
}

MergeArgs Requests::merge() {
  MergeArgs args;
  const Tokens rows = tokens(in_.between(0, 2), in_.one_of({1, 20}), in_.flag());
  const std::int64_t heads = in_.between(1, 4), dim = head_size();
  for (std::int64_t s = in_.one_in(16) ? 0 : in_.between(1, 4); s > 0; --s) {
    args.states.push_back(
        {.out = token_tensor(real(), rows, heads, dim), .lse = head_major(rows, heads)});
  }
  const Dtype out = in_.one_of({Dtype::f32, Dtype::bf16, Dtype::f16, Dtype::e4m3, Dtype::e2m1x2});
  args.out = token_tensor(out, rows, heads, out == Dtype::e2m1x2 ? dim / 2 : dim);
  args.output = output(args.out, rows.packed ? rows.rows : rows.batch * rows.len, heads, dim);
  if (in_.flag()) args.lse = head_major(rows, heads);
  spoil_some(args);
  return args;
}

}  // namespace sotto::fuzz

// quantize() and channel_mean() of every backend against their definitions.
//
//   b2 l33:0:7 h4/2 d128     lengths; heads, and kv heads for scale=kv_head
//   in=bf16 to=e4m3|i8|f32…  scale=tensor|head|kv_head|token|block<n>  power_of_two  lo
//   RoPE as in transforms.h; had; mean; dot<heads of dot_with> before_mean
//   packed, padded (seqused), bhsd, strided, far; first<n>: channel_mean over the first n tokens
//   data=normal|outliers|special (NaN, Inf)|zeros|denormal|huge
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "data.h"
#include "harness.h"
#include "mirror.h"
#include "output_reader.h"
#include "rounding.h"
#include "transforms.h"

namespace sotto::test {
namespace {

struct QuantizeCase {
  explicit QuantizeCase(const std::string& line) {
    Spec spec(line);
    batch = static_cast<std::int64_t>(spec.number("b", 1));
    len = spec.list("l", {33});
    len.resize(static_cast<std::size_t>(batch), len.back());
    heads = std::stoll(spec.parts("h", "2").front());
    heads_kv = std::stoll(spec.parts("h", "2").back());
    dim = static_cast<std::int64_t>(spec.number("d", 64));
    in = dtype_named(spec.text("in", "f32"));
    to = dtype_named(spec.text("to", "e4m3"));
    scale = spec.text("scale", "head");
    power_of_two = spec.has("power_of_two");
    lo = spec.has("lo");
    rope = RopeWords(spec, dim);
    with_hadamard = spec.has("had");
    mean = spec.has("mean");
    dot_heads = static_cast<std::int64_t>(spec.number("dot", 0));
    before_mean = spec.has("before_mean");
    padding = spec.has("padded") ? 4 : 0;
    order = order_of(spec);
    data = spec.text("data", "normal");
    place(spec.has("packed"));
    max_tokens = static_cast<std::int64_t>(spec.number("first", 0));
    spec.finish();
  }

  void place(bool packed) {
    placing.packed = packed;
    placing.capacity = *std::max_element(len.begin(), len.end()) + padding;
    for (std::int64_t b = 0; b < batch; ++b) {
      placing.first.push_back(packed ? placing.rows : b);
      placing.rows += packed ? len[static_cast<std::size_t>(b)] + padding : 1;
    }
  }

  std::int64_t batch, heads, heads_kv, dim, dot_heads, padding, max_tokens;
  std::vector<std::int64_t> len;
  Dtype in, to;
  std::string scale, data;
  bool power_of_two, lo, with_hadamard, mean, before_mean;
  RopeWords rope;
  Placing placing;
  Order order;
};

// Tensors of a case and what their values are after RoPE and Hadamard, in float64.
class Rig {
 public:
  Rig(const std::string& line, const QuantizeCase& qc) : c(qc), random_(seed_of(line)) {
    x = c.placing.make(arena, c.in, c.heads, c.dim, c.order);
    for (std::size_t b = 0; b < c.len.size(); ++b) {
      for (std::int64_t t = 0; t < c.len[b]; ++t) {
        positions.push_back(static_cast<std::int32_t>(random_() % 50));
        for (std::int64_t h = 0; h < c.heads; ++h) fill_row(b, t, h);
      }
    }
    rope = c.rope.tables(arena, 50 + c.placing.capacity + c.placing.rows);
    if (c.rope.positions) add_positions();
    if (c.placing.packed) {
      std::vector<std::int32_t> cu(c.placing.first.begin(), c.placing.first.end());
      cu.push_back(static_cast<std::int32_t>(c.placing.rows));
      cu_seqlens = arena.copy(cu, {c.batch + 1});
    }
    if (c.padding > 0 || (!c.placing.packed && c.batch > 1)) {
      seqused = arena.copy(std::vector<std::int32_t>(c.len.begin(), c.len.end()), {c.batch});
    }
  }

  Tensor random_table(const std::vector<std::int64_t>& shape) {
    const Tensor table = arena.make(Dtype::f32, shape);
    std::vector<float> values(static_cast<std::size_t>(table.numel()));
    fill_normal(values, random_);
    std::copy(values.begin(), values.end(), static_cast<float*>(table.data));
    return table;
  }

  Scale new_scale() {
    if (c.scale == "tensor") return Scale::per_tensor(arena.make(Dtype::f32, {1}));
    if (c.scale == "head") return Scale::per_head(arena.make(Dtype::f32, {c.batch, c.heads}));
    if (c.scale == "kv_head") {
      return Scale::per_kv_head(arena.make(Dtype::f32, {c.batch, c.heads_kv}));
    }
    if (c.scale == "token") {
      return Scale::per_token(c.placing.make_per_token(arena, Dtype::f32, c.heads));
    }
    const std::int64_t block = std::stoll(c.scale.substr(5));
    const auto blocks = [&](std::int64_t tokens) { return (tokens + block - 1) / block; };
    if (!c.placing.packed) {
      return Scale::per_block(
          arena.make(Dtype::f32, {c.batch, c.heads, blocks(c.placing.capacity)}), block);
    }
    std::vector<std::int32_t> cu{0};
    for (std::int64_t len : c.len) {
      cu.push_back(cu.back() + static_cast<std::int32_t>(blocks(len + c.padding)));
    }
    return Scale::per_block(arena.make(Dtype::f32, {c.heads, cu.back()}), block,
                            arena.copy(cu, {c.batch + 1}));
  }

  // The scale of an element's share.
  float* scale_at(const Scale& scale, std::size_t b, std::int64_t t, std::int64_t h) const {
    const Tensor& v = scale.values;
    auto* values = static_cast<float*>(v.data);
    const auto sequence = static_cast<std::int64_t>(b);
    switch (scale.granularity) {
      case Granularity::tensor:
        return values;
      case Granularity::head:
        return values + sequence * c.heads + h;
      case Granularity::kv_head:
        return values + sequence * c.heads_kv + h / (c.heads / c.heads_kv);
      case Granularity::token:
        return reinterpret_cast<float*>(c.placing.at(v, b, t, h));
      case Granularity::block:
        break;
    }
    if (!c.placing.packed) {
      return values + (sequence * c.heads + h) * v.size(2) + t / scale.block;
    }
    const auto* cu = static_cast<const std::int32_t*>(scale.cu_blocks.data);
    return values + h * v.size(1) + cu[b] + t / scale.block;
  }

  // A row of token (b, t) after RoPE and Hadamard.
  std::vector<double> transformed(std::size_t b, std::int64_t t,
                                  const std::vector<float>& values) const {
    std::vector<double> y(values.begin(), values.end());
    std::int64_t index = t;
    for (std::size_t n = 0; n < b; ++n) index += c.len[n];
    c.rope.rotate(y, c.rope.positions ? positions[static_cast<std::size_t>(index)] : t);
    return c.with_hadamard ? hadamard(y) : y;
  }

  std::vector<float> row(const Tensor& tensor, std::size_t b, std::int64_t t,
                         std::int64_t h) const {
    const std::byte* from = c.placing.at(tensor, b, t, h);
    std::vector<float> values;
    for (std::int64_t d = 0; d < c.dim; ++d) {
      values.push_back(load_float(tensor.dtype, from + d * dtype_size(tensor.dtype)));
    }
    return values;
  }

  const QuantizeCase& c;
  Arena arena;
  Tensor x, cu_seqlens, seqused;
  Rope rope;
  std::vector<std::int32_t> positions;

 private:
  void fill_row(std::size_t b, std::int64_t t, std::int64_t h) {
    std::vector<float> values(static_cast<std::size_t>(c.dim));
    fill_normal(values, random_);
    for (std::size_t d = 0; d < values.size(); ++d) {
      float& v = values[d];
      if (c.data == "outliers" && d % 16 == 5) v *= 20.0f;
      if (c.data == "zeros" && h == 0) v = 0.0f;
      if (c.data == "denormal") v *= 1e-41f;
      if (c.data == "huge") v *= 3e37f;
      if (c.data == "special") {
        const auto die = random_() % 40;
        if (die == 0) v = std::numeric_limits<float>::quiet_NaN();
        if (die == 1) v = std::copysign(std::numeric_limits<float>::infinity(), v);
      }
      store_float(c.in, c.placing.at(x, b, t, h) + static_cast<std::int64_t>(d) * dtype_size(c.in),
                  v);
    }
  }

  void add_positions() {
    const Tensor table = c.placing.packed ? arena.make(Dtype::i32, {c.placing.rows})
                                          : arena.make(Dtype::i32, {c.batch, c.placing.capacity});
    auto* to = static_cast<std::int32_t*>(table.data);
    std::fill_n(to, table.numel(), 0);
    const std::int32_t* next = positions.data();
    for (std::size_t b = 0; b < c.len.size(); ++b) {
      std::copy_n(next, c.len[b], to + c.placing.first[b] * table.stride(0));
      next += c.len[b];
    }
    rope.positions = table;
  }

  Random random_;
};

double table_at(const Tensor& table, std::int64_t b, std::int64_t h, std::int64_t d) {
  return static_cast<double>(
      static_cast<const float*>(table.data)[(b * table.size(1) + h) * table.size(2) + d]);
}

void test_quantize(const std::string& line, const std::string& backend) {
  const QuantizeCase c(line);
  Rig rig(line, c);
  QuantizeArgs args{.x = rig.x,
                    .out = c.placing.make(rig.arena, c.to, c.heads, c.dim, {.gap = c.order.gap}),
                    .power_of_two = c.power_of_two,
                    .rope = rig.rope,
                    .hadamard = c.with_hadamard,
                    .cu_seqlens = rig.cu_seqlens,
                    .seqused = rig.seqused,
                    .backend = backend};
  const bool eight_bits = dtype_size(c.to) == 1;
  if (eight_bits) args.descale = rig.new_scale();
  if (c.lo) args.out_lo = c.placing.make(rig.arena, Dtype::e4m3, c.heads, c.dim);
  if (c.mean) args.mean = rig.random_table({c.batch, c.heads, c.dim});
  const std::int64_t dot_rows = std::max(c.dot_heads, c.heads);
  if (c.dot_heads > 0) {
    args.dot_with = rig.random_table({c.batch, c.dot_heads, c.dim});
    args.dot = c.placing.make_head_major(rig.arena, c.batch, dot_rows, c.placing.capacity);
    args.dot_scale = 0.37f;
    args.dot_before_mean = c.before_mean;
  }
  Mirror mirror(backend);
  const QuantizeArgs placed = mirror.place(args);
  if (!accepts(backend, line, explain(placed))) return;
  quantize(placed);
  mirror.read_back();

  // First what is to be rounded, and the amax of every share of it.
  std::vector<std::vector<double>> rows;
  std::map<const float*, double> amax;
  for (std::size_t b = 0; b < c.len.size(); ++b) {
    for (std::int64_t t = 0; t < c.len[b]; ++t) {
      for (std::int64_t h = 0; h < c.heads; ++h) {
        std::vector<double> y = rig.transformed(b, t, rig.row(rig.x, b, t, h));
        const std::vector<double> before = y;
        for (std::size_t d = 0; c.mean && d < y.size(); ++d) {
          y[d] -=
              table_at(args.mean, static_cast<std::int64_t>(b), h, static_cast<std::int64_t>(d));
        }
        for (std::int64_t row = 0; c.dot_heads > 0 && row < dot_rows; ++row) {
          if (row / (dot_rows / c.heads) != h) continue;
          double dot = 0, magnitude = 0;
          for (std::size_t d = 0; d < y.size(); ++d) {
            const double term =
                (c.before_mean ? before : y)[d] *
                table_at(args.dot_with, static_cast<std::int64_t>(b),
                         row / (dot_rows / c.dot_heads), static_cast<std::int64_t>(d));
            dot += term;
            magnitude += std::fabs(term);
          }
          EXPECT_NEAR(static_cast<double>(c.placing.head_major(args.dot, b, row, t)),
                      dot * static_cast<double>(args.dot_scale), 1e-6 * magnitude + 1e-30);
        }
        if (eight_bits) {
          double& largest = amax[rig.scale_at(args.descale, b, t, h)];
          for (double v : y) {
            if (std::isfinite(v)) largest = std::max(largest, std::fabs(v));
          }
        }
        rows.push_back(std::move(y));
      }
    }
  }

  const double largest_code = c.to == Dtype::i8 ? 127.0 : 448.0;
  for (const auto& [scale, share] : amax) {
    const double got = static_cast<double>(*scale);
    if (share == 0) {
      EXPECT_EQ(got, 1.0) << "a share of zeros has descale 1";
    } else if (c.power_of_two) {
      EXPECT_EQ(std::exp2(std::round(std::log2(got))), got);
      EXPECT_GE(got * largest_code, share * (1 - 1e-6));
      EXPECT_TRUE(got * largest_code <= share * 2 * (1 + 1e-6) || got == 0x1p-126);
    } else {
      EXPECT_NEAR(got, std::max(share / largest_code, 0x1p-126), share / largest_code * 2e-6);
    }
  }

  std::size_t n = 0;
  for (std::size_t b = 0; b < c.len.size(); ++b) {
    for (std::int64_t t = 0; t < c.len[b]; ++t) {
      for (std::int64_t h = 0; h < c.heads; ++h) {
        const std::vector<double>& y = rows[n++];
        const std::vector<float> out = rig.row(args.out, b, t, h);
        const std::vector<float> lo =
            c.lo ? rig.row(args.out_lo, b, t, h) : std::vector<float>(out.size());
        const float* scale = eight_bits ? rig.scale_at(args.descale, b, t, h) : nullptr;
        double row_amax = 0;
        for (double v : y) row_amax = std::max(row_amax, std::isfinite(v) ? std::fabs(v) : 0.0);
        const double slack = 1e-6 * row_amax + 1e-44;
        for (std::size_t d = 0; d < y.size(); ++d) {
          ASSERT_TRUE(
              is_rounded(y[d], out[d], lo[d], c.to, scale == nullptr ? 1.0f : *scale, c.lo, slack))
              << "sequence " << b << ", token " << t << ", head " << h << ", channel " << d << ": "
              << y[d] << " became " << out[d] << " at scale " << (scale ? *scale : 1.0f);
        }
      }
    }
    for (std::int64_t t = c.len[b]; t < c.len[b] + c.padding; ++t) {
      for (std::int64_t h = 0; h < c.heads; ++h) {
        for (float v : rig.row(args.out, b, t, h)) ASSERT_EQ(v, 0.0f) << "padding must be 0";
      }
    }
  }
}

void test_channel_mean(const std::string& line, const std::string& backend) {
  const QuantizeCase c(line);
  Rig rig(line, c);
  ChannelMeanArgs args{.x = rig.x,
                       .mean = rig.arena.make(Dtype::f32, {c.batch, c.heads, c.dim}),
                       .max_tokens = c.max_tokens,
                       .rope = rig.rope,
                       .hadamard = c.with_hadamard,
                       .cu_seqlens = rig.cu_seqlens,
                       .seqused = rig.seqused,
                       .backend = backend};
  if (dtype_size(c.to) == 1) {
    args.x = c.placing.make(rig.arena, c.to, c.heads, c.dim);
    args.descale = rig.new_scale();
    quantize({.x = rig.x,
              .out = args.x,
              .descale = args.descale,
              .cu_seqlens = rig.cu_seqlens,
              .seqused = rig.seqused,
              .backend = "reference"});
  }
  Mirror mirror(backend);
  const ChannelMeanArgs placed = mirror.place(args);
  if (!accepts(backend, line, explain(placed))) return;
  channel_mean(placed);
  mirror.read_back();

  for (std::size_t b = 0; b < c.len.size(); ++b) {
    for (std::int64_t h = 0; h < c.heads; ++h) {
      std::vector<double> sum(static_cast<std::size_t>(c.dim)), magnitude(sum), count(sum);
      const std::int64_t tokens = c.max_tokens > 0 ? std::min(c.len[b], c.max_tokens) : c.len[b];
      for (std::int64_t t = 0; t < tokens; ++t) {
        std::vector<float> x = rig.row(args.x, b, t, h);
        if (args.descale) {
          for (float& v : x) v *= *rig.scale_at(args.descale, b, t, h);
        }
        const std::vector<double> y = rig.transformed(b, t, x);
        for (std::size_t d = 0; d < y.size(); ++d) {
          if (!std::isfinite(y[d])) continue;
          sum[d] += y[d];
          magnitude[d] += std::fabs(y[d]);
          count[d] += 1;
        }
      }
      for (std::size_t d = 0; d < sum.size(); ++d) {
        const double got =
            table_at(args.mean, static_cast<std::int64_t>(b), h, static_cast<std::int64_t>(d));
        if (count[d] == 0) {
          ASSERT_EQ(got, 0.0);
        } else {
          ASSERT_NEAR(got, sum[d] / count[d], 2e-6 * magnitude[d] / count[d] + 2e-6);
        }
      }
    }
  }
}

}  // namespace

void register_quantize_cases() {
  register_family(
      "Quantize",
      {
          "b2 l{0,1,129} h4/2 in={f32,bf16} to={e4m3,i8} "
          "scale={tensor,head,kv_head,token,block32} {packed,}",
          "b3 l17:0:40 h2 in=f16 to={e4m3,i8} scale={token,block16,head} padded "
          "{packed,bhsd,strided,far,packed far}",
          "b2 l33 h2 d{48,64,80,192,256,512} to={e4m3,i8} had {rope=halves,rope=interleaved,}",
          "b2 l33:20 h2 d96 in=bf16 to={i8,bf16,f16,f32} rope={halves:32,interleaved:64} "
          "{positions,rope_full} {packed,}",
          "b2 l70 h4/2 to={e4m3,i8} scale=block32 mean {had,} dot{4,2,8} {before_mean,}",
          "b2 l70 h4/2 to={e4m3,f32} mean {had,}",
          "b2 l70 h2 to=e4m3 scale={head,block128} {power_of_two,lo,power_of_two lo mean had}",
          "b2 l40:70 h2 packed padded to=f32 rope=halves had mean dot2",
          "b2 l20 h2 in=f32 to={e4m3,i8} scale={tensor,head,token} "
          "data={outliers,special,zeros,denormal,huge}",
          "l20 h2 in={f16,bf16} to={e4m3,i8} data=special {power_of_two,}",
      },
      test_quantize);
  register_family("ChannelMean",
                  {
                      "b3 l{0:1:200} h2 d{64,80} in={f32,bf16} to=f32 {packed,padded,bhsd} "
                      "{first16,} {had,}",
                      "b2 l70:33 h2 packed to=f32 rope={halves,interleaved} {had,} {positions,}",
                      "b2 l70 h2 to={e4m3,i8} scale={head,token,block16} {packed,padded,} {had,}",
                      "b2 l20 h2 to=f32 data={special,zeros,denormal,huge}",
                  },
                  test_channel_mean);
}

}  // namespace sotto::test

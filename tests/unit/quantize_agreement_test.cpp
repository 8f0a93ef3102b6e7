// quantize() and channel_mean() of backend cpu against those of reference, on random requests.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/channel_mean.h"
#include "cpu/quantize.h"
#include "host_tensor.h"
#include "reference/quantize.h"
#include "sotto/error.h"

namespace sotto {
namespace {

using test::HostTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct RandomRequest {
  HostTensor x, mean, with, cos, sin, positions, cu_seqlens, cu_blocks, seqused;
  std::vector<std::int64_t> out_shape, descale_shape, dot_shape;
  Dtype dtype_out{};
  bool lo = false;
  bool plain = true;  // nothing but rounding: both backends see the same floats
  QuantizeArgs args;

  explicit RandomRequest(unsigned seed) {
    std::mt19937 random(seed);
    const auto pick = [&](std::int64_t n) {
      return static_cast<std::int64_t>(random() % static_cast<unsigned>(n));
    };
    const auto choose = [&](const auto& options) {
      return options[static_cast<std::size_t>(pick(static_cast<std::int64_t>(std::size(options))))];
    };
    const std::int64_t dims[] = {16, 24, 64, 80, 96, 128, 192, 256};
    const std::int64_t heads_options[] = {1, 2, 3, 4, 6};
    const Dtype inputs[] = {Dtype::f32, Dtype::f16, Dtype::bf16};
    const Dtype outputs[] = {Dtype::e4m3, Dtype::i8,  Dtype::e4m3, Dtype::i8,
                             Dtype::f32,  Dtype::f16, Dtype::bf16};
    const std::int64_t batch = 1 + pick(3), dim = choose(dims), heads = choose(heads_options);
    const bool packed = pick(2) == 0;
    const std::int64_t longest = 40;

    std::vector<std::int32_t> lengths, offsets = {0}, used, blocks = {0};
    const std::int64_t len = pick(longest);
    const std::int64_t block = 1 + pick(20);
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t length = packed ? (pick(4) == 0 ? 0 : pick(longest)) : len;
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(length));
      blocks.push_back(blocks.back() + static_cast<std::int32_t>((length + block - 1) / block));
      used.push_back(static_cast<std::int32_t>(pick(length + 1)));
    }
    const std::int64_t total = offsets.back();
    out_shape = packed ? std::vector<std::int64_t>{total, heads, dim}
                       : std::vector<std::int64_t>{batch, len, heads, dim};
    x = HostTensor::normal(choose(inputs), out_shape, random, 3.0f);
    for (int i = 0; i < 3 && pick(3) == 0 && x.numel() > 0; ++i) {
      const float special[] = {kNaN, kInf, -kInf, 0.0f};
      x.set(pick(x.numel()), choose(special));
    }
    args.x = x;
    if (packed) {
      cu_seqlens = HostTensor::ints(offsets);
      args.cu_seqlens = cu_seqlens;
    }
    if (pick(2) == 0) {
      seqused = HostTensor::ints(used);
      args.seqused = seqused;
    }

    if (pick(2) == 0) {
      const std::int64_t rotary = pick(2) == 0 ? dim : 2 * (1 + pick(dim / 2));
      const std::int64_t width = pick(2) == 0 ? rotary : rotary / 2;
      cos = HostTensor::normal(Dtype::f32, {longest, width}, random);
      sin = HostTensor::normal(Dtype::f32, {longest, width}, random);
      args.rope.cos = cos;
      args.rope.sin = sin;
      args.rope.interleaved = pick(2) == 0;
      args.rope.rotary_dim = rotary == dim ? 0 : rotary;
      if (pick(2) == 0) {
        const std::int64_t rows = packed ? 1 : (pick(2) == 0 ? 1 : batch);
        const std::int64_t columns = packed ? total : len;
        std::vector<std::int32_t> rows_of_tables;
        for (std::int64_t i = 0; i < rows * columns; ++i) {
          rows_of_tables.push_back(static_cast<std::int32_t>(pick(longest)));
        }
        positions = HostTensor::ints(rows_of_tables);
        args.rope.positions =
            packed ? positions.view() : Tensor(positions.view().data, Dtype::i32, {rows, columns});
      }
      plain = false;
    }
    args.hadamard = pick(2) == 0;
    if (args.hadamard) plain = false;
    if (pick(2) == 0) {
      mean = HostTensor::normal(Dtype::f32, {batch, heads, dim}, random);
      args.mean = mean;
      plain = false;
    }
    if (pick(2) == 0) {
      const std::int64_t with_heads = pick(2) == 0 ? heads * (1 + pick(3)) : 1;
      with = HostTensor::normal(Dtype::f32, {batch, with_heads, dim}, random);
      args.dot_with = with;
      args.dot_scale = 0.3f;
      args.dot_before_mean = pick(2) == 0;
      const std::int64_t dots = std::max(heads, with_heads);
      dot_shape = packed ? std::vector<std::int64_t>{dots, total}
                         : std::vector<std::int64_t>{batch, dots, len};
    }

    dtype_out = choose(outputs);
    lo = dtype_out == Dtype::e4m3 && pick(2) == 0;
    if (!core::is_quantized(dtype_out)) return;
    args.power_of_two = pick(4) == 0;
    args.descale.granularity = static_cast<Granularity>(pick(5));
    switch (args.descale.granularity) {
      case Granularity::tensor:
        descale_shape = {1};
        break;
      case Granularity::head:
        descale_shape = {batch, heads};
        break;
      case Granularity::kv_head:
        descale_shape = {batch, heads % 2 == 0 ? heads / 2 : 1};
        break;
      case Granularity::block:
        args.descale.block = block;
        if (packed) {
          cu_blocks = HostTensor::ints(blocks);
          args.descale.cu_blocks = cu_blocks;
          descale_shape = {heads, blocks.back()};
        } else {
          descale_shape = {batch, heads, (len + block - 1) / block};
        }
        break;
      case Granularity::token:
        descale_shape = out_shape;
        descale_shape.pop_back();
        break;
    }
  }
};

struct Result {
  HostTensor out, lo, descale, dot;

  Result(const RandomRequest& request, void (*quantize)(const QuantizeArgs&))
      : out(request.dtype_out, request.out_shape) {
    QuantizeArgs args = request.args;
    args.out = out;
    if (request.lo) {
      lo = HostTensor(Dtype::e4m3, request.out_shape);
      args.out_lo = lo;
    }
    if (!request.descale_shape.empty()) {
      descale = HostTensor(Dtype::f32, request.descale_shape);
      args.descale.values = descale;
    }
    if (!request.dot_shape.empty()) {
      dot = HostTensor(Dtype::f32, request.dot_shape);
      args.dot = dot;
    }
    quantize(args);
  }
};

// Distance of neighbouring numbers of a dtype around |x|.
float step_at(Dtype dtype, float x) {
  int exponent;
  std::frexp(x, &exponent);
  switch (dtype) {
    case Dtype::i8:
      return 1.0f;
    case Dtype::e4m3:
      return std::ldexp(1.0f, std::max(exponent - 1, -6) - 3);
    case Dtype::f16:
      return std::ldexp(1.0f, std::max(exponent - 1, -14) - 10);
    case Dtype::bf16:
      return std::ldexp(1.0f, exponent - 1 - 7);
    default:
      return 0.0f;
  }
}

// Where nothing but rounding happens the backends agree bit for bit. RoPE, Hadamard and the mean
// are fp32 in `cpu` and float64 in `reference`: the floats that are rounded differ by some 2^-22 of
// the row's norm (8 stages of a Hadamard transform of half a unit each), and a code differs by one
// step where such a float lies that close to a tie, which for 8 bits is one in thousands.
TEST(QuantizeAgreement, RandomRequests) {
  std::int64_t codes = 0, different = 0;
  for (unsigned seed = 0; seed < 250; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const RandomRequest request(seed);
    const Result a(request, cpu::quantize), b(request, reference::quantize);
    if (request.plain) {
      ASSERT_EQ(a.out.bytes(), b.out.bytes());
      ASSERT_EQ(a.lo.bytes(), b.lo.bytes());
      ASSERT_EQ(a.descale.bytes(), b.descale.bytes());
    }
    ASSERT_TRUE(a.out.end_is_untouched());
    for (std::int64_t i = 0; i < a.descale.numel(); ++i) {
      ASSERT_NEAR(a.descale.get(i) / b.descale.get(i), 1.0f, 4e-6f) << i;
    }
    for (std::int64_t i = 0; i < a.dot.numel(); ++i) {
      if (std::isfinite(b.dot.get(i))) {
        ASSERT_NEAR(a.dot.get(i), b.dot.get(i), 1e-3f) << i;
      } else {
        ASSERT_FALSE(std::isfinite(a.dot.get(i))) << i;
      }
    }
    for (std::int64_t i = 0; i < a.out.numel(); ++i) {
      const float x = a.out.get(i), y = b.out.get(i);
      if (std::isnan(y)) {
        ASSERT_TRUE(std::isnan(x)) << i;
        continue;
      }
      if (x == y) {
        ++codes;
        continue;
      }
      ++codes;
      if (core::is_quantized(request.dtype_out)) ++different;
      const float step = std::max(step_at(request.dtype_out, x), step_at(request.dtype_out, y));
      ASSERT_LE(std::fabs(x - y), std::max(step, 6e-5f)) << i;
    }
    // Where the first term is the same, so is the second, up to what the floats differ by; where it
    // is not, the two differ by a step of the first the other way round.
    for (std::int64_t i = 0; i < a.lo.numel(); ++i) {
      const float x = a.out.get(i) + a.lo.get(i), y = b.out.get(i) + b.lo.get(i);
      if (std::isnan(y)) {
        ASSERT_TRUE(std::isnan(x)) << i;
      } else {
        ASSERT_NEAR(x, y, std::max(std::fabs(y) * 0x1p-7f, 0x1p-9f)) << i;
      }
    }
  }
  EXPECT_GT(codes, 500000);
  EXPECT_LT(different, codes / 2000) << codes;
}

// Many panels for the threads, whole and broken off, of tokens with all their heads and of single
// heads; scales whose share one panel holds and scales whose share it does not.
TEST(QuantizeAgreement, LongSequences) {
  std::mt19937 random(13);
  const std::int64_t batch = 2, len = 700;
  for (const std::int64_t heads : {1, 6}) {
    for (const std::int64_t dim : {128, 80}) {
      HostTensor x = HostTensor::normal(Dtype::bf16, {batch, len, heads, dim}, random, 3.0f);
      x.set(x.numel() / 2, kInf);
      const HostTensor seqused = HostTensor::ints({700, 333});
      const HostTensor cu_seqlens = HostTensor::ints({0, 129, 129, 1300, 1400});
      const HostTensor cu_blocks = HostTensor::ints({0, 2, 2, 12, 14});
      for (const bool head_major : {false, true}) {
        for (const bool packed : {false, true}) {
          for (const auto granularity :
               {Granularity::tensor, Granularity::head, Granularity::kv_head, Granularity::block,
                Granularity::token}) {
            QuantizeArgs args;
            args.x = x.view();
            if (packed) {
              args.x = Tensor(x.view().data, Dtype::bf16, {batch * len, heads, dim});
              args.cu_seqlens = cu_seqlens;
            } else {
              args.seqused = seqused;
            }
            if (head_major) {
              const int tokens = args.x.rank - 3, rest = args.x.rank - 2;
              const auto a = static_cast<std::size_t>(tokens), b = static_cast<std::size_t>(rest);
              args.x.strides[a] = dim;
              args.x.strides[b] = args.x.shape[a] * dim;
            }
            const std::int64_t sequences = packed ? 4 : batch;
            std::vector<std::int64_t> shape;
            args.descale.granularity = granularity;
            switch (granularity) {
              case Granularity::tensor:
                shape = {1};
                break;
              case Granularity::head:
                shape = {sequences, heads};
                break;
              case Granularity::kv_head:
                shape = {sequences, 1};
                break;
              case Granularity::block:
                args.descale.block = 128;
                shape = packed ? std::vector<std::int64_t>{heads, 14}
                               : std::vector<std::int64_t>{batch, heads, 6};
                if (packed) args.descale.cu_blocks = cu_blocks;
                break;
              case Granularity::token:
                shape = packed ? std::vector<std::int64_t>{batch * len, heads}
                               : std::vector<std::int64_t>{batch, len, heads};
                break;
            }
            HostTensor results[2][2];
            void (*quantizes[])(const QuantizeArgs&) = {cpu::quantize, reference::quantize};
            for (int i = 0; i < 2; ++i) {
              auto& [out, descale] = results[i];
              out = HostTensor(Dtype::i8, {batch * len * heads * dim});
              descale = HostTensor(Dtype::f32, shape);
              args.out = args.x;  // the same layout
              args.out.dtype = Dtype::i8;
              args.out.data = out.view().data;
              args.descale.values = descale;
              quantizes[i](args);
            }
            ASSERT_EQ(results[0][0].bytes(), results[1][0].bytes())
                << heads << " " << dim << " " << head_major << " " << packed << " "
                << static_cast<int>(granularity);
            ASSERT_EQ(results[0][1].bytes(), results[1][1].bytes());
          }
        }
      }
    }
  }
}

TEST(QuantizeAgreement, MeansOfLongSequences) {
  std::mt19937 random(14);
  for (const std::int64_t heads : {1, 5, 40}) {
    const HostTensor x = HostTensor::normal(Dtype::bf16, {2, 1300, heads, 64}, random, 3.0f);
    HostTensor a(Dtype::f32, {2, heads, 64}), b(Dtype::f32, {2, heads, 64});
    ChannelMeanArgs args;
    args.x = x;
    args.mean = a;
    cpu::channel_mean(args);
    args.mean = b;
    reference::channel_mean(args);
    for (std::int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.get(i), b.get(i), 1e-6f) << i;
  }
}

TEST(QuantizeAgreement, HugeHeadSizesAreLeftToReference) {
  const HostTensor x(Dtype::f32, {1, 1, 1, 4096}, std::vector<float>(4096, 2.0f));
  HostTensor out(Dtype::i8, {1, 1, 1, 4096}), descale(Dtype::f32, {1});
  QuantizeArgs args{.x = x, .out = out, .descale = Scale::per_tensor(descale)};
  quantize(args);
  EXPECT_EQ(out.get(4095), 127.0f);
  args.backend = "cpu";
  EXPECT_THROW(quantize(args), Unsupported);
}

TEST(QuantizeAgreement, RandomChannelMeans) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const RandomRequest request(seed);
    ChannelMeanArgs args;
    args.x = request.args.x;
    args.rope = request.args.rope;
    args.hadamard = request.args.hadamard;
    args.cu_seqlens = request.args.cu_seqlens;
    args.seqused = request.args.seqused;
    args.max_tokens = static_cast<std::int64_t>(seed % 3) * 10;
    const bool packed = static_cast<bool>(args.cu_seqlens);
    const std::int64_t batch = packed ? args.cu_seqlens.size(0) - 1 : args.x.size(0);
    const std::vector<std::int64_t> shape = {batch, args.x.size(args.x.rank - 2),
                                             args.x.size(args.x.rank - 1)};
    HostTensor a(Dtype::f32, shape), b(Dtype::f32, shape);
    args.mean = a;
    cpu::channel_mean(args);
    args.mean = b;
    reference::channel_mean(args);
    for (std::int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.get(i), b.get(i), 1e-5f) << i;
  }
}

}  // namespace
}  // namespace sotto

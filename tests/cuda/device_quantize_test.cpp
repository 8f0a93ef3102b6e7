// quantize(), channel_mean() and the preparation of 8-bit tensors on the GPU against backend cpu,
// on random requests.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "cuda/quantize/operations.h"
#include "cuda/quantize/prepare.h"
#include "device_tensors.h"

namespace sotto::test {
namespace {

class DeviceQuantize : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      cudaGetLastError();
      GTEST_SKIP() << "no device";
    }
  }
};

using Shape = std::vector<std::int64_t>;

// A tensor that is written, once on the GPU and once by backend cpu.
struct Output {
  Dtype dtype{};
  DeviceTensor device;
  HostTensor host;

  Output() = default;
  Output(Dtype type, const Shape& shape) : dtype(type), device(type, shape), host(type, shape) {
    device.fill([](std::int64_t) { return 1.0f; });
    for (std::int64_t i = 0; i < host.numel(); ++i) host.set(i, 1.0f);
  }
  std::vector<float> from_device() const {
    HostTensor copy = host;
    cuda::check(
        cudaMemcpy(copy.view().data, device.device().data,
                   static_cast<std::size_t>(host.numel() * dtype_size(dtype)), cudaMemcpyDefault),
        "cudaMemcpy");
    return copy.values();
  }
};

int code_distance(Dtype dtype, float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) == std::isnan(b) ? 0 : 1000;
  if (dtype == Dtype::i8) return std::abs(static_cast<int>(a) - static_cast<int>(b));
  const auto order = [](float x) {
    const int code = e4m3(x).bits;
    return code & 0x80 ? -(code & 0x7f) : code;
  };
  return std::abs(order(a) - order(b));
}

// What quantize() and channel_mean() are asked alike.
struct RandomRows {
  std::mt19937 random;
  std::int64_t batch, len, heads, dim, total = 0;
  bool packed, rotates = false;
  DeviceTensor x, cu_seqlens, seqused, cos, sin, positions;
  std::vector<std::int32_t> offsets{0}, used, blocks{0};
  std::int64_t block;
  static constexpr std::int64_t kLongest = 60;

  explicit RandomRows(unsigned seed) : random(seed) {
    const std::int64_t dims[] = {16, 24, 64, 80, 128, 192, 256, 512};
    const std::int64_t head_counts[] = {1, 2, 3, 4, 6};
    dim = dims[pick(8)];
    heads = head_counts[pick(5)];
    batch = 1 + pick(3);
    packed = pick(2) == 0;
    len = 1 + pick(kLongest - 1);
    block = 1 + pick(20);
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t length = packed ? pick(kLongest) : len;
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(length));
      blocks.push_back(blocks.back() + static_cast<std::int32_t>((length + block - 1) / block));
      used.push_back(static_cast<std::int32_t>(pick(length + 1)));
    }
    total = packed ? offsets.back() + 2 : batch * len;  // two rows belong to nobody
    const Dtype dtypes[] = {Dtype::f32, Dtype::f16, Dtype::bf16};
    x = DeviceTensor(dtypes[pick(3)], shape(dim), pick(3));
    std::normal_distribution<float> normal(0.0f, 3.0f);
    const bool special = pick(4) == 0;
    x.fill([&](std::int64_t) {
      if (special && pick(500) == 0) {
        const float values[] = {NAN, INFINITY, -INFINITY};
        return values[pick(3)];
      }
      return normal(random);
    });
    if (packed) cu_seqlens = DeviceTensor(offsets);
    if (pick(2) == 0) seqused = DeviceTensor(used);
  }

  std::int64_t pick(std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<unsigned>(n));
  }
  Shape shape(std::int64_t last) const {
    return packed ? Shape{total, heads, last} : Shape{batch, len, heads, last};
  }
  DeviceTensor table(const Shape& sizes) {
    DeviceTensor tensor(Dtype::f32, sizes);
    std::normal_distribution<float> normal;
    tensor.fill([&](std::int64_t) { return normal(random); });
    return tensor;
  }
  // The same for `args` on the GPU and `host`.
  template <class Args>
  void fill_in(Args& args, Args& host) {
    args.x = x.device();
    host.x = x.host_view();
    host.backend = "cpu";
    if (packed) {
      args.cu_seqlens = cu_seqlens.device();
      host.cu_seqlens = cu_seqlens.host_view();
    }
    if (seqused.device()) {
      args.seqused = seqused.device();
      host.seqused = seqused.host_view();
    }
    args.hadamard = host.hadamard = pick(2) == 0;
    if (pick(2) == 0) return;
    rotates = true;
    const std::int64_t rotary = pick(2) == 0 ? dim : 2 * (1 + pick(dim / 2));
    const std::int64_t width = pick(2) == 0 ? rotary : rotary / 2;
    cos = table({kLongest, width});
    sin = table({kLongest, width});
    args.rope.interleaved = host.rope.interleaved = pick(2) == 0;
    args.rope.rotary_dim = host.rope.rotary_dim = rotary == dim ? 0 : rotary;
    args.rope.cos = cos.device();
    args.rope.sin = sin.device();
    host.rope.cos = cos.host_view();
    host.rope.sin = sin.host_view();
    if (pick(2) == 0) return;
    std::vector<std::int32_t> rows;
    for (std::int64_t i = 0; i < total; ++i) rows.push_back(static_cast<int>(pick(kLongest)));
    positions = DeviceTensor(rows);
    if (!packed) positions.reshape({batch, len});
    args.rope.positions = positions.device();
    host.rope.positions = Tensor(positions.host_view().data, Dtype::i32, {total});
    if (!packed) {
      host.rope.positions = Tensor(positions.host_view().data, Dtype::i32, {batch, len});
    }
  }
};

void check_quantize(unsigned seed) {
  RandomRows rows(seed);
  QuantizeArgs args, host;
  rows.fill_in(args, host);
  bool plain = !rows.rotates && !args.hadamard;

  const Dtype outs[] = {Dtype::e4m3, Dtype::i8, Dtype::f32, Dtype::f16, Dtype::bf16};
  const Dtype dtype = outs[rows.pick(5)];
  Output out(dtype, rows.shape(rows.dim)), lo, descale, dot;
  args.out = out.device.device();
  host.out = out.host;
  DeviceTensor mean, with, cu_blocks;
  if (dtype == Dtype::e4m3 && rows.pick(2) == 0) {
    lo = Output(Dtype::e4m3, rows.shape(rows.dim));
    args.out_lo = lo.device.device();
    host.out_lo = lo.host;
  }
  if (rows.pick(2) == 0) {
    mean = rows.table({rows.batch, rows.heads, rows.dim});
    args.mean = mean.device();
    host.mean = mean.host_view();
    plain = false;
  }
  if (rows.pick(2) == 0) {
    const std::int64_t heads_with = rows.pick(2) == 0 ? rows.heads * (1 + rows.pick(2)) : 1;
    const std::int64_t dots = std::max(rows.heads, heads_with);
    with = rows.table({rows.batch, heads_with, rows.dim});
    dot = Output(Dtype::f32,
                 rows.packed ? Shape{dots, rows.total} : Shape{rows.batch, dots, rows.len});
    args.dot_with = with.device();
    host.dot_with = with.host_view();
    args.dot = dot.device.device();
    host.dot = dot.host;
    args.dot_scale = host.dot_scale = 0.3f;
    args.dot_before_mean = host.dot_before_mean = rows.pick(2) == 0;
  }
  if (dtype == Dtype::e4m3 || dtype == Dtype::i8) {
    args.power_of_two = host.power_of_two = rows.pick(4) == 0;
    const auto granularity = static_cast<Granularity>(rows.pick(5));
    Shape shape;
    switch (granularity) {
      case Granularity::tensor:
        shape = {1};
        break;
      case Granularity::head:
        shape = {rows.batch, rows.heads};
        break;
      case Granularity::kv_head:
        shape = {rows.batch, rows.heads % 2 == 0 ? rows.heads / 2 : 1};
        break;
      case Granularity::token:
        shape =
            rows.packed ? Shape{rows.total, rows.heads} : Shape{rows.batch, rows.len, rows.heads};
        break;
      case Granularity::block:
        shape = rows.packed
                    ? Shape{rows.heads, rows.blocks.back() + 1}
                    : Shape{rows.batch, rows.heads, (rows.len + rows.block - 1) / rows.block};
        break;
    }
    descale = Output(Dtype::f32, shape);
    args.descale.values = descale.device.device();
    host.descale.values = descale.host;
    args.descale.granularity = host.descale.granularity = granularity;
    if (granularity == Granularity::block) {
      args.descale.block = host.descale.block = rows.block;
      if (rows.packed) {
        cu_blocks = DeviceTensor(rows.blocks);
        args.descale.cu_blocks = cu_blocks.device();
        host.descale.cu_blocks = cu_blocks.host_view();
      }
    }
  }
  ASSERT_TRUE(cuda::refuse(args).empty());
  cuda::run(args, nullptr);
  cuda::check(cudaDeviceSynchronize(), "quantize");
  quantize(host);

  if (descale.host.numel() > 0) {
    const auto a = descale.from_device(), b = descale.host.values();
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a[i] / b[i], 1.0f, plain ? 0.0f : args.power_of_two ? 1.01f : 1e-5f) << i;
    }
  }
  const auto compare = [&](const Output& output, bool exact) {
    const auto a = output.from_device(), b = output.host.values();
    int differ = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (dtype == Dtype::i8 || dtype == Dtype::e4m3) {
        const int distance = code_distance(dtype, a[i], b[i]);
        differ += distance > 0;
        ASSERT_LE(distance, exact || !args.power_of_two ? 1 : 128)
            << i << ": " << a[i] << " " << b[i];
      } else if (std::isnan(b[i]) || std::isinf(b[i])) {
        ASSERT_FALSE(std::isfinite(a[i])) << i;
      } else {
        ASSERT_NEAR(a[i], b[i], 1e-4f + std::fabs(b[i]) * 0.01f) << i;
      }
    }
    if (exact) {
      EXPECT_EQ(differ, 0);
    }
    EXPECT_LE(differ, 3 + static_cast<int>(a.size()) / (args.power_of_two ? 1 : 200));
  };
  compare(out, plain);
  if (lo.host.numel() > 0 && plain) compare(lo, true);
  if (dot.host.numel() > 0) {
    const auto a = dot.from_device(), b = dot.host.values();
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (std::isfinite(b[i])) {
        ASSERT_NEAR(a[i], b[i], 2e-3f) << i;
      }
    }
  }
}

TEST_F(DeviceQuantize, AgreesWithTheCpu) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    check_quantize(seed);
    if (HasFailure()) return;
  }
}

TEST_F(DeviceQuantize, ChannelMeanAgreesWithTheCpu) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    RandomRows rows(seed + 1000);
    ChannelMeanArgs args, host;
    rows.fill_in(args, host);
    args.max_tokens = host.max_tokens = rows.pick(2) == 0 ? 0 : rows.pick(50);
    Output mean(Dtype::f32, {rows.batch, rows.heads, rows.dim});
    args.mean = mean.device.device();
    host.mean = mean.host;
    ASSERT_TRUE(cuda::refuse(args).empty());
    cuda::run(args, nullptr);
    cuda::check(cudaDeviceSynchronize(), "channel_mean");
    channel_mean(host);
    const auto a = mean.from_device(), b = mean.host.values();
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 2e-4f) << i;
  }
}

// Rows of e4m3 whose products leave f16, and others that do not.
TEST_F(DeviceQuantize, PreparationKeepsProductsWithinHalf) {
  for (const std::int64_t padding : {0, 3}) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const std::int64_t batch = 2, len_q = 150, len_k = 300, heads_q = 4, heads_kv = 2, dim = 128;
    const auto make = [&](std::int64_t len, std::int64_t heads) {
      DeviceTensor tensor(Dtype::e4m3, {batch, len, heads, dim}, padding);
      tensor.fill([&](std::int64_t i) {
        const float size = i / (heads * dim) % 3 == 0 ? 150.0f : 5.0f;  // by token
        return size * normal(random);
      });
      return tensor;
    };
    const DeviceTensor q = make(len_q, heads_q), k = make(len_k, heads_kv);
    DeviceTensor v(Dtype::e4m3, {batch, len_k, heads_kv, dim}, padding);
    v.fill([&](std::int64_t i) { return i % 4099 == 7 ? -NAN : normal(random); });
    DeviceTensor scale(Dtype::f32, {batch, heads_q});
    scale.fill([](std::int64_t i) { return 0.01f * static_cast<float>(i + 1); });
    DeviceTensor out(Dtype::bf16, {batch, len_q, heads_q, dim});
    AttentionArgs args{.q = q.device(), .k = k.device(), .v = v.device(), .out = out.device()};
    args.descale = {.q = scale.device(), .k = Scale(), .v = Scale()};
    const Problem problem = describe(args);
    ASSERT_TRUE(cuda::refuse_prepare(args, problem).empty());
    const cuda::Preparer preparer(args, problem);
    DeviceTensor workspace(Dtype::e4m3, {static_cast<std::int64_t>(preparer.workspace_size())});
    workspace.spoil();
    auto* data = static_cast<std::byte*>(workspace.device().data);
    preparer.run(args, data, nullptr, nullptr);
    cuda::check(cudaDeviceSynchronize(), "prepare");
    const cuda::PreparedOperands o = preparer.operands(args, data);
    const auto bytes = workspace.host<std::uint8_t>();
    const auto code = [&](const Tensor& t, std::int64_t at) {
      return bytes[static_cast<std::size_t>(
          static_cast<const std::uint8_t*>(t.data) + at -
          static_cast<const std::uint8_t*>(workspace.device().data))];
    };
    EXPECT_EQ(o.k.data == k.device().data, padding == 0);
    int wrong_q = 0, wrong_k = 0, wrong_v = 0, wrong_bits = 0, shifted = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t h = 0; h < heads_q; ++h) {
        double largest_k = 0.0;
        for (std::int64_t j = 0; j < len_k; ++j) {
          double sum = 0.0;
          for (std::int64_t d = 0; d < dim; ++d) {
            const double x = k.get(((b * len_k + j) * heads_kv + h / 2) * dim + d);
            sum += x * x;
          }
          largest_k = std::max(largest_k, std::sqrt(sum));
        }
        for (std::int64_t i = 0; i < len_q; ++i) {
          float factor;
          const Tensor& values = o.q_scale.values;
          const std::int64_t at =
              b * values.stride(0) + i * values.stride(1) + h * values.stride(2);
          std::memcpy(&factor,
                      bytes.data() +
                          (static_cast<const std::uint8_t*>(values.data) -
                           static_cast<const std::uint8_t*>(workspace.device().data)) +
                          at * 4,
                      4);
          const float own = scale.get(b * heads_q + h);
          const double n = std::log2(factor / own);
          const int shift = static_cast<int>(std::lround(n));
          double sum = 0.0;
          for (std::int64_t d = 0; d < dim; ++d) {
            const float x = q.get(((b * len_q + i) * heads_q + h) * dim + d);
            const auto stored = e4m3::from_bits(
                code(o.q, b * o.q.stride(0) + i * o.q.stride(1) + h * o.q.stride(2) + d));
            sum += static_cast<double>(x) * x;
            wrong_q += e4m3(std::ldexp(x, -shift)).bits != stored.bits;
          }
          const double bound = std::sqrt(sum) * largest_k;
          shifted += n > 0.5;
          wrong_q += std::fabs(n - std::round(n)) > 1e-3 || n < 0 ||
                     bound * own / factor > 57344.0 ||
                     (n > 0.5 && bound * 2.002 * own / factor < 57344.0);
        }
      }
      for (std::int64_t h = 0; h < heads_kv; ++h) {
        for (std::int64_t j = 0; j < (len_k + 127) / 128 * 128; ++j) {
          bool bad = false;
          for (std::int64_t d = 0; d < dim; ++d) {
            const std::int64_t from = ((b * len_k + j) * heads_kv + h) * dim + d;
            const std::int64_t place = j / 16 * 16 + j / 2 % 4 * 4 + j / 8 % 2 * 2 + j % 2;
            const std::uint8_t stored =
                code(o.v, (b * heads_kv + h) * o.v.stride(0) + d * o.v.stride(1) + place);
            const float value = j < len_k ? v.get(from) : 0.0f;
            bad |= std::isnan(value);
            wrong_v += stored != (std::isnan(value) ? 0 : e4m3(value).bits);
            if (j >= len_k || padding == 0) continue;
            wrong_k += code(o.k, b * o.k.stride(0) + j * o.k.stride(1) + h * o.k.stride(2) + d) !=
                       e4m3(k.get(from)).bits;
          }
          std::uint32_t word;
          const std::int64_t at = (b * heads_kv + h) * o.v.stride(1) + j;
          std::memcpy(&word,
                      bytes.data() + (reinterpret_cast<const std::uint8_t*>(o.bad_keys + at / 32) -
                                      static_cast<const std::uint8_t*>(workspace.device().data)),
                      4);
          wrong_bits += (word >> j % 32 & 1) != bad;
        }
      }
    }
    EXPECT_EQ(wrong_q, 0);
    EXPECT_EQ(wrong_k, 0);
    EXPECT_EQ(wrong_v, 0);
    EXPECT_EQ(wrong_bits, 0);
    EXPECT_GT(shifted, 0);
  }
}

}  // namespace
}  // namespace sotto::test

// Attention with few query rows on the cpu backend: every combination of formats, layouts and masks
// that it takes, on every SIMD target, against backend `reference`; and its ways around numbers
// that would spoil a row.

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "host_tensor.h"
#include "simd_targets.h"
#include "sotto/sotto.h"

namespace sotto {
namespace {

using test::HostTensor;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

// On the targets one by one, and on the CPU as it is, which may have bf16 products.
template <class F>
void on_every_target(F&& f) {
  f();
  test::for_each_target(f);
}

enum class Layout { dense, head_major, packed, paged };

struct Shape {
  Dtype q = Dtype::f32, k = Dtype::f32, v = Dtype::f32;
  Layout layout = Layout::dense;
  std::int64_t batch = 1, len_q = 1, len_k = 300, kv_heads = 2, group = 2;
  std::int64_t dim_qk = 64, dim_v = 64, page_size = 16;
};

// A request with its tensors; `args` may be changed.
struct Case {
  HostTensor q, k, v, out, lse, q_scale, k_scale, v_scale, cu_q, cu_k, used, table;
  AttentionArgs args;

  Case(const Shape& s, unsigned seed) {
    std::mt19937 random(seed);
    const std::int64_t heads = s.kv_heads * s.group;
    std::vector<std::int64_t> rows_q{s.batch, s.len_q}, rows_k{s.batch, s.len_k};
    const std::int64_t pages = (s.len_k + s.page_size - 1) / s.page_size;
    if (s.layout == Layout::packed) rows_q = {s.batch * s.len_q}, rows_k = {s.batch * s.len_k};
    if (s.layout == Layout::paged) rows_k = {s.batch * pages, s.page_size};
    if (s.layout == Layout::head_major) rows_k = {s.batch, s.kv_heads};
    const auto tensor = [&](Dtype dtype, std::vector<std::int64_t> shape, std::int64_t n,
                            std::int64_t dim) {
      shape.push_back(n);
      shape.push_back(dim);
      return HostTensor::normal(dtype, shape, random, dtype == Dtype::i8 ? 40.0f : 1.0f);
    };
    const std::int64_t inner = s.layout == Layout::head_major ? s.len_k : s.kv_heads;
    q = tensor(s.q, rows_q, heads, s.dim_qk);
    k = tensor(s.k, rows_k, inner, s.dim_qk);
    v = tensor(s.v, rows_k, inner, s.dim_v);
    rows_q.push_back(heads);
    lse = HostTensor(Dtype::f32, s.layout == Layout::packed
                                     ? std::vector<std::int64_t>{heads, s.batch * s.len_q}
                                     : std::vector<std::int64_t>{s.batch, heads, s.len_q});
    rows_q.push_back(s.dim_v);
    out = HostTensor(Dtype::f32, rows_q);
    args = {.q = q, .k = k, .v = v, .out = out, .lse = lse};
    if (s.layout == Layout::head_major) {
      args.k = args.k.transposed(1, 2);
      args.v = args.v.transposed(1, 2);
    }

    const auto lengths = [&](std::int64_t longest) {
      std::vector<std::int32_t> n{static_cast<std::int32_t>(longest)};
      while (n.size() < static_cast<std::size_t>(s.batch)) {
        n.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(longest + 1)));
      }
      return n;
    };
    const auto sums = [&](std::vector<std::int32_t> n) {
      n.insert(n.begin(), 0);
      std::partial_sum(n.begin(), n.end(), n.begin());
      return HostTensor::ints(n);
    };
    if (s.layout == Layout::packed) {
      cu_q = sums(lengths(s.len_q));
      cu_k = sums(lengths(s.len_k));
      args.seq = {
          .cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k, .max_len_q = s.len_q, .max_len_k = s.len_k};
    } else {
      used = HostTensor::ints(lengths(s.len_k));
      args.seq.seqused_k = used;
    }
    if (s.layout == Layout::paged) {
      std::vector<std::int32_t> order(static_cast<std::size_t>(s.batch * pages));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      table = HostTensor(Dtype::i32, {s.batch, pages});
      std::copy(order.begin(), order.end(), static_cast<std::int32_t*>(table.view().data));
      args.cache.page_table = table;
    }

    const auto scale = [&](const Tensor& of, HostTensor& values, float size) {
      const bool per_token = random() % 2 == 0;
      std::vector<std::int64_t> shape(of.shape.begin(), of.shape.begin() + of.rank - 1);
      values = HostTensor(Dtype::f32, per_token ? shape : std::vector<std::int64_t>{1});
      for (std::int64_t i = 0; i < values.numel(); ++i) {
        values.set(i, size * (0.5f + static_cast<float>(random() % 100) / 100));
      }
      return per_token ? Scale::per_token(values) : Scale::per_tensor(values);
    };
    if (core::is_quantized(s.q)) args.descale.q = scale(args.q, q_scale, 1.0f / 40);
    if (core::is_quantized(s.k)) args.descale.k = scale(args.k, k_scale, 1.0f / 40);
    if (core::is_quantized(s.v)) args.descale.v = scale(args.v, v_scale, 1.0f);
  }

  void run(const char* backend) {
    args.backend = backend;
    attention(args);
    EXPECT_TRUE(out.end_is_untouched());
  }
};

double sqnr_db(const std::vector<float>& expected, const std::vector<float>& seen) {
  double signal = 0.0, noise = 0.0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    signal += std::pow(expected[i], 2.0);
    noise += std::pow(static_cast<double>(expected[i]) - seen[i], 2.0);
  }
  return noise == 0.0 ? 1000.0 : 10.0 * std::log10(signal / noise);
}

// The accuracy that the formats leave: P is rounded to e4m3 for quantised queries, and may be to
// bf16 where all numbers are bf16 numbers.
double least_db(const Shape& s) {
  const auto fits_bf16 = [](Dtype d) { return d == Dtype::bf16 || core::is_quantized(d); };
  if (core::is_quantized(s.q)) return 27;
  return fits_bf16(s.q) && fits_bf16(s.k) && fits_bf16(s.v) ? 45 : 105;
}

void expect_as_reference(Case& c, const Shape& s) {
  c.run("reference");
  const std::vector<float> o = c.out.values(), lse = c.lse.values();
  c.run("cpu");
  EXPECT_GT(sqnr_db(o, c.out.values()), least_db(s));
  const std::vector<float> seen = c.lse.values();
  for (std::size_t i = 0; i < lse.size(); ++i) {
    if (std::isinf(lse[i])) {
      EXPECT_EQ(seen[i], lse[i]);
    } else {
      const bool p_e4m3 = core::is_quantized(s.q);
      EXPECT_NEAR(seen[i], lse[i], p_e4m3 ? 0.065 : 2e-5 + 4e-6 * std::fabs(lse[i]));
    }
  }
}

using Formats = std::array<Dtype, 3>;
constexpr std::array kFormats{
    Formats{Dtype::f32, Dtype::f32, Dtype::f32},    Formats{Dtype::f16, Dtype::f16, Dtype::f16},
    Formats{Dtype::bf16, Dtype::bf16, Dtype::bf16}, Formats{Dtype::bf16, Dtype::e4m3, Dtype::e4m3},
    Formats{Dtype::e4m3, Dtype::e4m3, Dtype::e4m3}, Formats{Dtype::bf16, Dtype::i8, Dtype::e4m3},
    Formats{Dtype::i8, Dtype::i8, Dtype::e4m3},     Formats{Dtype::f16, Dtype::e4m3, Dtype::e4m3},
    Formats{Dtype::f32, Dtype::i8, Dtype::e4m3},    Formats{Dtype::bf16, Dtype::i8, Dtype::bf16}};

TEST(CpuFewRows, AgreesWithTheReferenceOnEveryTarget) {
  constexpr std::array kGroups{1, 2, 3, 4, 5, 8, 16};
  constexpr std::array kDims{16, 48, 64, 80, 112, 128, 192, 256, 512};
  constexpr std::array kPages{1, 3, 16, 64};
  on_every_target([&] {
    std::mt19937 random(7);
    const auto pick = [&](const auto& from) { return from[random() % from.size()]; };
    for (unsigned n = 0; n < 40; ++n) {
      const Formats formats = kFormats[n % kFormats.size()];
      Shape s{.q = formats[0], .k = formats[1], .v = formats[2]};
      s.layout = static_cast<Layout>(random() % 4);
      s.batch = 1 + random() % 3;
      s.group = pick(kGroups);
      s.len_q = 1 + random() % (16 / s.group);
      s.len_k = 1 + random() % 300;
      s.kv_heads = 1 + random() % 3;
      s.dim_qk = pick(kDims);
      s.dim_v = pick(kDims);
      s.page_size = pick(kPages);
      Case c(s, n);
      const std::array masks{Mask::none(), Mask::causal(), Mask::causal_bottom_right(),
                             Mask::window(130, 0), Mask::window(3, 2)};
      c.args.mask = pick(masks);
      if (random() % 3 == 0) c.args.softcap = 5.0f;
      if (random() % 3 == 0) c.args.num_splits = 2;
      SCOPED_TRACE(testing::Message() << "case " << n);
      expect_as_reference(c, s);
    }
  });
}

TEST(CpuFewRows, EveryCodeOfACacheIsExact) {
  // Equal weights: each output is the mean of its channel, exact in fp32 for codes of one exponent.
  for (const Dtype dtype : {Dtype::e4m3, Dtype::i8}) {
    Case c({.q = Dtype::bf16, .k = dtype, .v = Dtype::e4m3, .len_k = 1, .dim_qk = 256}, 1);
    for (std::int64_t i = 0; i < c.k.numel(); ++i) {
      *reinterpret_cast<std::uint8_t*>(c.k.view().at(i)) =
          static_cast<std::uint8_t>(dtype == Dtype::e4m3 && i % 128 == 127 ? 0 : i);
    }
    on_every_target([&] {
      c.run("reference");
      const std::vector<float> expected = c.lse.values();
      c.run("cpu");
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_NEAR(c.lse.values()[i], expected[i], 1e-5f * (1 + std::fabs(expected[i])));
      }
    });
  }
  Case c({.q = Dtype::bf16, .k = Dtype::bf16, .v = Dtype::e4m3, .len_k = 1, .dim_v = 256}, 1);
  c.args.descale.v = {};
  for (std::int64_t i = 0; i < c.v.numel(); ++i) {
    *reinterpret_cast<std::uint8_t*>(c.v.view().at(i)) = static_cast<std::uint8_t>(i);
  }
  on_every_target([&] {
    c.run("cpu");
    const std::vector<float> o = c.out.values();
    for (std::size_t i = 0; i < o.size(); ++i) {
      const float code = static_cast<float>(e4m3::from_bits(static_cast<std::uint8_t>(i)));
      if (std::isnan(code)) {
        EXPECT_TRUE(std::isnan(o[i])) << i;
      } else {
        EXPECT_EQ(o[i], code) << i;
      }
    }
  });
}

TEST(CpuFewRows, BitsDependNeitherOnThreadsNorOnTheLayout) {
  const int threads = omp_get_max_threads();
  for (const Formats& formats : kFormats) {
    const Shape s{.q = formats[0],
                  .k = formats[1],
                  .v = formats[2],
                  .len_q = 2,
                  .len_k = 5000,
                  .kv_heads = 3};
    Case c(s, 3);
    omp_set_num_threads(1);
    c.run("cpu");
    const std::vector<std::byte> one = c.out.bytes();
    omp_set_num_threads(5);
    c.run("cpu");
    EXPECT_EQ(c.out.bytes(), one);
    // The same K and V, heads apart: they are then attended to one by one.
    const auto head_major = [&](const Tensor& x) {
      HostTensor copy(x.dtype, {1, x.size(2), x.size(1), x.size(3)});
      const auto size = static_cast<std::size_t>(x.size(3) * dtype_size(x.dtype));
      for (std::int64_t h = 0; h < x.size(2); ++h) {
        for (std::int64_t j = 0; j < x.size(1); ++j) {
          std::memcpy(copy.view().at((h * x.size(1) + j) * x.size(3)),
                      x.at(j * x.stride(1) + h * x.stride(2)), size);
        }
      }
      return copy;
    };
    const HostTensor k = head_major(c.k), v = head_major(c.v);
    c.args.k = static_cast<const Tensor&>(k).transposed(1, 2);
    c.args.v = static_cast<const Tensor&>(v).transposed(1, 2);
    c.run("cpu");
    EXPECT_EQ(c.out.bytes(), one);
  }
  omp_set_num_threads(threads);
}

TEST(CpuFewRows, SumsBeyondFp32AreDoneAgain) {
  on_every_target([] {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      Case c({.q = dtype, .k = dtype, .v = dtype, .len_q = 2}, 5);
      for (std::int64_t i = 0; i < c.v.numel(); ++i) c.v.set(i, i % 3 == 0 ? -kLargest : kLargest);
      c.run("cpu");
      for (const float o : c.out.values()) EXPECT_TRUE(std::isfinite(o));
      for (std::int64_t i = 0; i < c.k.numel(); ++i) c.k.set(i, i % 3 == 0 ? -kLargest : kLargest);
      for (std::int64_t i = 0; i < c.q.numel(); ++i) c.q.set(i, i % 5 == 0 ? -kLargest : kLargest);
      c.run("cpu");
      for (const float o : c.out.values()) EXPECT_TRUE(std::isfinite(o));
    }
  });
}

TEST(CpuFewRows, NaNReachesTheRowsThatSeeItAlone) {
  on_every_target([] {
    for (const Formats& formats : kFormats) {
      if (core::is_quantized(formats[1]) && formats[1] != Dtype::e4m3) continue;  // INT8 has no NaN
      const Shape s{.q = formats[0], .k = formats[1], .v = formats[2], .len_q = 4, .len_k = 200};
      for (const int where : {0, 1, 2}) {
        Case c(s, 9);
        c.args.mask = Mask::causal_bottom_right();
        c.run("cpu");
        const std::vector<float> clean = c.out.values();
        // Key 198 of kv head 1, which query 2 is the first to see; or query 2 of head 3.
        if (where == 0) c.k.set((198 * 2 + 1) * 64 + 7, kNaN);
        if (where == 1) c.v.set((198 * 2 + 1) * 64 + 7, kNaN);
        if (where == 2) c.q.set((2 * 4 + 3) * 64 + 7, kNaN);
        c.run("cpu");
        const std::vector<float> o = c.out.values();
        for (std::size_t row = 0; row < 16; ++row) {
          const std::size_t query = row / 4, head = row % 4;
          const bool spoilt = where == 2 ? query == 2 && head == 3 : query >= 2 && head >= 2;
          bool is_nan = false;
          for (std::size_t d = row * 64; d < (row + 1) * 64; ++d) {
            is_nan |= std::isnan(o[d]);
            if (!spoilt) {
              ASSERT_EQ(o[d], clean[d]) << where << " row " << row;
            }
          }
          ASSERT_EQ(is_nan, spoilt) << where << " row " << row;
        }
      }
    }
  });
}

TEST(CpuFewRows, ALongContextIsAsPreciseAsAShortOne) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Shape s{.q = dtype,
                  .k = dtype,
                  .v = dtype,
                  .len_k = 60000,
                  .kv_heads = 1,
                  .group = 1,
                  .dim_qk = 16,
                  .dim_v = 16};
    Case c(s, 2);
    for (std::int64_t i = 0; i < c.v.numel(); ++i) c.v.set(i, c.v.get(i) + 3.0f);
    c.args.num_splits = 1;
    c.run("reference");
    const std::vector<float> expected = c.out.values();
    c.run("cpu");
    EXPECT_GT(sqnr_db(expected, c.out.values()), dtype == Dtype::f32 ? 115 : 60);
  }
}

}  // namespace
}  // namespace sotto

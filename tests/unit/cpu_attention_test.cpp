// What is particular to the cpu backend's attention: its tiles, targets, threads and splits, and
// numbers at the ends of their range. That it computes attention is the conformance suite's matter.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "cpu/pack.h"
#include "host_tensor.h"
#include "simd_targets.h"
#include "sotto/sotto.h"

namespace sotto {
namespace {

using test::for_each_target;
using test::HostTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

template <class T, class Code>
void expect_every_code_widens(Dtype dtype) {
  constexpr std::int64_t kRow = 64, kRows = (std::int64_t{1} << (8 * sizeof(Code))) / kRow;
  HostTensor codes(dtype, {kRows, kRow});
  for (std::int64_t i = 0; i < codes.numel(); ++i) {
    const auto code = static_cast<Code>(i);
    std::memcpy(codes.view().at(i), &code, sizeof(code));
  }
  const cpu::SourceRows rows{.dtype = dtype,
                             .data = codes.view().at(0),
                             .stride = kRow * dtype_size(dtype),
                             .count = kRows};
  std::vector<float> wide(static_cast<std::size_t>(codes.numel()));
  std::uint32_t largest = 0;
  const std::uint32_t reported = cpu::widen_rows(rows, kRow, false, wide.data());
  for (std::int64_t i = 0; i < codes.numel(); ++i) {
    const float expected = codes.get(i), seen = wide[static_cast<std::size_t>(i)];
    largest = std::max(largest, std::bit_cast<std::uint32_t>(seen) & 0x7fffffffu);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(seen)) << i;
    } else {
      ASSERT_EQ(seen, expected) << i;
      ASSERT_EQ(std::signbit(seen), std::signbit(expected)) << i;
    }
  }
  EXPECT_EQ(reported, largest);
}

TEST(CpuWidenRows, WidensEveryCode) {
  for_each_target([] {
    expect_every_code_widens<bf16, std::uint16_t>(Dtype::bf16);
    expect_every_code_widens<f16, std::uint16_t>(Dtype::f16);
    expect_every_code_widens<e4m3, std::uint8_t>(Dtype::e4m3);
    expect_every_code_widens<std::int8_t, std::uint8_t>(Dtype::i8);
  });
}

TEST(CpuWidenRows, ScalesAndAccumulates) {
  for_each_target([] {
    std::vector<float> x(32, 3.0f), scale = {2.0f, -0.5f}, out(32, 1.0f);
    const cpu::SourceRows rows{.data = reinterpret_cast<const std::byte*>(x.data()),
                               .stride = 64,
                               .count = 2,
                               .scale = scale.data()};
    EXPECT_EQ(cpu::widen_rows(rows, 16, true, out.data()), std::bit_cast<std::uint32_t>(7.0f));
    EXPECT_EQ(out[0], 7.0f);
    EXPECT_EQ(out[16], -0.5f);
  });
}

// One sequence; [1, len, heads, dim].
struct Inputs {
  HostTensor q, k, v;

  Inputs(std::int64_t len_q, std::int64_t len_k, std::int64_t heads = 4, std::int64_t heads_kv = 2,
         std::int64_t dim = 64, Dtype dtype = Dtype::f32, float sigma = 1.0f) {
    std::mt19937 random(11);
    q = HostTensor::normal(dtype, {1, len_q, heads, dim}, random, sigma);
    k = HostTensor::normal(dtype, {1, len_k, heads_kv, dim}, random, sigma);
    v = HostTensor::normal(dtype, {1, len_k, heads_kv, dim}, random);
  }
  AttentionArgs args(HostTensor& out) const {
    return {.q = q, .k = k, .v = v, .out = out, .backend = "cpu"};
  }
  HostTensor output() const {
    const Tensor& shape = q;
    return HostTensor(Dtype::f32, {1, shape.size(1), shape.size(2), shape.size(3)});
  }
};

std::vector<float> attend(const Inputs& in,
                          const std::function<void(AttentionArgs&)>& change = {}) {
  HostTensor out = in.output();
  AttentionArgs args = in.args(out);
  if (change) change(args);
  attention(args);
  EXPECT_TRUE(out.end_is_untouched());
  return out.values();
}

double sqnr_db(const std::vector<float>& expected, const std::vector<float>& seen) {
  double signal = 0.0, noise = 0.0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    signal += std::pow(expected[i], 2.0);
    noise += std::pow(static_cast<double>(expected[i]) - seen[i], 2.0);
  }
  return noise == 0.0 ? 1000.0 : 10.0 * std::log10(signal / noise);
}

TEST(CpuAttention, EveryTargetComputesTheSame) {
  const Inputs exact(75, 300);
  const Inputs e4m3(75, 300, 4, 2, 64, Dtype::e4m3);
  const auto causal = [](AttentionArgs& args) { args.mask = Mask::causal_bottom_right(); };
  const auto by_reference = [&](AttentionArgs& args) {
    causal(args);
    args.backend = "reference";
  };
  const std::vector<float> expected = attend(exact, by_reference);
  const std::vector<float> expected_e4m3 = attend(e4m3, by_reference);
  for_each_target([&] {
    EXPECT_GT(sqnr_db(expected, attend(exact, causal)), 120.0);
    EXPECT_GT(sqnr_db(expected_e4m3, attend(e4m3, causal)), 30.0);
  });
}

TEST(CpuAttention, BitsDoNotDependOnThreads) {
  const int threads = omp_get_max_threads();
  for (const Dtype dtype : {Dtype::f32, Dtype::e4m3}) {
    const Inputs prefill(300, 300, 4, 2, 64, dtype), decode(2, 9000, 4, 2, 64, dtype);
    for (const Inputs* in : {&prefill, &decode}) {
      omp_set_num_threads(1);
      const std::vector<float> one = attend(*in);
      omp_set_num_threads(7);
      const std::vector<float> seven = attend(*in);
      EXPECT_EQ(one, seven) << dtype_name(dtype);
    }
  }
  omp_set_num_threads(threads);
}

TEST(CpuAttention, SplitsCombineToTheSameResult) {
  const Inputs in(3, 2000);
  const std::vector<float> whole = attend(in, [](AttentionArgs& args) { args.num_splits = 1; });
  for (int splits : {0, 2, 3, 16, 1000}) {
    for (const Mask& mask : {Mask::none(), Mask::window(1500, 0)}) {
      const auto with = [&](int n) {
        return attend(in, [&](AttentionArgs& args) {
          args.num_splits = n;
          args.mask = mask;
        });
      };
      EXPECT_GT(sqnr_db(with(1), with(splits)), 120.0) << splits;
    }
  }
}

bool all_finite(const std::vector<float>& x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
}

TEST(CpuAttention, FiniteInputStaysFinite) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const bool softcap : {false, true}) {
      Inputs in(40, 300, 4, 2, 64, dtype);
      std::mt19937 random(3);
      for (HostTensor* t : {&in.q, &in.k, &in.v}) {
        for (std::int64_t i = 0; i < t->numel(); ++i) {
          t->set(i, random() % 2 == 0 ? kLargest : -kLargest);
        }
      }
      EXPECT_TRUE(all_finite(attend(in, [&](AttentionArgs& args) {
        args.mask = Mask::causal();
        if (softcap) args.softcap = 30.0f;
      })));
    }
  }
}

TEST(CpuAttention, HugeValuesKeepTheirPrecision) {
  Inputs in(40, 300);
  const std::vector<float> ordinary = attend(in);
  Inputs huge = in;
  for (std::int64_t i = 0; i < huge.v.numel(); ++i) huge.v.set(i, in.v.get(i) * 0x1p124f);
  std::vector<float> result = attend(huge);
  for (float& x : result) x *= 0x1p-124f;
  EXPECT_EQ(result, ordinary);
}

TEST(CpuAttention, SoftcapsOfAnySize) {
  const Inputs in(20, 300);
  const auto with = [&](float softcap, const char* backend) {
    return attend(in, [&](AttentionArgs& args) {
      args.softcap = softcap;
      args.backend = backend;
    });
  };
  for (float softcap : {1e-44f, 1e-30f, 1e-3f, 1.0f, 50.0f, 1e6f, 1e30f, kLargest}) {
    EXPECT_GT(sqnr_db(with(softcap, "reference"), with(softcap, "cpu")), 115.0) << softcap;
  }
}

TEST(CpuAttention, LowestFloatInAMaskHidesNothingByItself) {
  const Inputs in(5, 200);
  HostTensor mask(Dtype::f32, {1, 1, 5, 200}, std::vector<float>(1000, -kLargest));
  // A row of nothing but the lowest float attends, as with PyTorch, to all keys.
  EXPECT_GT(std::fabs(attend(in, [&](AttentionArgs& args) { args.mask.dense = mask; })[0]), 0.0f);
}

// Rows of [1, len, heads, dim] that hold a NaN or Inf.
std::vector<bool> rows_not_finite(const std::vector<float>& o, std::size_t row_size) {
  std::vector<bool> rows(o.size() / row_size);
  for (std::size_t i = 0; i < o.size(); ++i) {
    if (!std::isfinite(o[i])) rows[i / row_size] = true;
  }
  return rows;
}

TEST(CpuAttention, HiddenKeysDoNotReachARow) {
  for_each_target([] {
    for (const float poison : {kNaN, kInf, -kInf}) {
      const Inputs clean(200, 200);
      const auto causal = [](AttentionArgs& args) { args.mask = Mask::causal(); };
      const std::vector<float> expected = attend(clean, causal);
      for (HostTensor Inputs::*tensor : {&Inputs::k, &Inputs::v}) {
        Inputs in = clean;
        (in.*tensor).set(150 * 2 * 64 + 7, poison);  // key 150, kv head 0
        const std::vector<float> o = attend(in, causal);
        const std::vector<bool> rows = rows_not_finite(o, 4 * 64);
        for (std::size_t i = 0; i < 200; ++i) {
          // An infinite key need not spoil the rows that see it: softmax may ignore it.
          if (std::isnan(poison) || tensor == &Inputs::v || i < 150) {
            EXPECT_EQ(rows[i], i >= 150) << i;
          }
        }
        for (std::size_t i = 0; i < 150 * 4 * 64; ++i) ASSERT_EQ(o[i], expected[i]) << i;
      }
    }
  });
}

TEST(CpuAttention, KeysHiddenByADenseMaskDoNotReachARow) {
  HostTensor mask(Dtype::boolean, {1, 1, 30, 200});
  for (std::int64_t i = 0; i < mask.numel(); ++i) {
    const bool may = i % 200 != 150 || i / 200 >= 20;  // rows from 20 on see key 150
    *reinterpret_cast<std::uint8_t*>(mask.view().at(i)) = may;
  }
  for_each_target([&] {
    for (HostTensor Inputs::*tensor : {&Inputs::k, &Inputs::v}) {
      Inputs in(30, 200);
      (in.*tensor).set(150 * 2 * 64 + 7, kNaN);
      const std::vector<bool> rows =
          rows_not_finite(attend(in, [&](AttentionArgs& args) { args.mask.dense = mask; }), 4 * 64);
      for (std::size_t i = 0; i < 30; ++i) EXPECT_EQ(rows[i], i >= 20) << i;
    }
  });
}

TEST(CpuAttention, NaNInAQueryStaysInItsRow) {
  for_each_target([] {
    for (const Dtype dtype : {Dtype::f32, Dtype::e4m3}) {
      Inputs in(200, 200, 4, 2, 64, dtype);
      in.q.set((77 * 4 + 1) * 64 + 5, kNaN);  // query 77, head 1
      const std::vector<bool> rows = rows_not_finite(attend(in), 64);
      for (std::size_t i = 0; i < 800; ++i) EXPECT_EQ(rows[i], i == 77 * 4 + 1) << i;
    }
  });
}

TEST(CpuAttention, PlansNoMoreMemoryForLongerSequences) {
  const auto workspace = [](std::int64_t len) {
    const Inputs in(len, len, 1, 1, 64);
    HostTensor out = in.output();
    return AttentionPlan(in.args(out)).workspace_size();
  };
  EXPECT_LE(workspace(8192), 2 * workspace(1024));
}

TEST(CpuAttention, RefusesWithAReasonThatSaysWhatToDo) {
  const Inputs in(8, 8);
  HostTensor out = in.output();
  HostTensor slopes(Dtype::f32, {4}, {1, 1, 1, 1});
  AttentionArgs args = in.args(out);
  args.dropout_p = 0.5f;
  args.alibi_slopes = slopes;
  args.needs_backward = true;
  for (const BackendAnswer& answer : explain(args).answers) {
    if (answer.backend == "cpu") {
      EXPECT_EQ(answer.reasons.size(), 3u);
    }
  }
  EXPECT_THROW(attention(args), Unsupported);
}

}  // namespace
}  // namespace sotto

// One step of flash attention in each arithmetic that this CPU has, against loops over doubles.
#include "cpu/attention_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpu/dot_product.h"
#include "cpu/pack.h"
#include "simd_targets.h"
#include "sotto/numerics.h"

namespace sotto::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::int64_t kDimQk = 48, kDimV = 32, kKeys = cpu::kKeyTile;

std::vector<cpu::Arithmetic> arithmetics() {
  using cpu::Product;
  std::vector<cpu::Arithmetic> all{{Product::fp32, Product::fp32}};
  if (cpu::has_int8_products()) all.push_back({Product::int8, Product::fp32});
  if (cpu::has_bf16_products()) all.push_back({Product::bf16, Product::bf16});
  if (cpu::has_bf16_products()) all.push_back({Product::int8, Product::bf16});
  return all;
}

const char* name(cpu::Product product) {
  return product == cpu::Product::fp32 ? "fp32" : product == cpu::Product::bf16 ? "bf16" : "int8";
}

template <class T>
class Aligned {
 public:
  explicit Aligned(std::int64_t count) : memory_(static_cast<std::size_t>(count) * sizeof(T) + 64) {
    data_ = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(memory_.data()) + 63) / 64 * 64);
  }
  operator T*() { return data_; }  // NOLINT(google-explicit-constructor)

 private:
  std::vector<std::byte> memory_;
  T* data_;
};

struct Numbers {
  std::vector<float> q, k, v;  // [rows][kDimQk], [kKeys][kDimQk], [kKeys][kDimV]
};

// Integers for Q and K, which every arithmetic holds; bf16 numbers for V.
Numbers random_numbers(std::int64_t rows, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Numbers n;
  for (std::int64_t i = 0; i < rows * kDimQk; ++i) n.q.push_back(std::round(40 * normal(random)));
  for (std::int64_t i = 0; i < kKeys * kDimQk; ++i) n.k.push_back(std::round(40 * normal(random)));
  for (float& x : n.q) x = std::clamp(x, -127.0f, 127.0f);
  for (float& x : n.k) x = std::clamp(x, -128.0f, 127.0f);
  for (std::int64_t i = 0; i < kKeys * kDimV; ++i) {
    n.v.push_back(static_cast<float>(bf16(normal(random) + 0.5f)));
  }
  return n;
}

// Words of `depth` numbers along d.
std::uint32_t word(cpu::Product product, const float* numbers, std::int64_t stride, bool plus_128) {
  if (product == cpu::Product::fp32) return std::bit_cast<std::uint32_t>(numbers[0]);
  std::uint32_t bits = 0;
  for (std::int64_t i = 0; i < cpu::depth(product); ++i) {
    const float x = numbers[i * stride];
    if (product == cpu::Product::bf16) {
      bits |= static_cast<std::uint32_t>(bf16(x).bits) << (16 * i);
    } else {
      const int byte = static_cast<int>(x) + (plus_128 ? 128 : 0);
      bits |= (static_cast<std::uint32_t>(byte) & 0xffu) << (8 * i);
    }
  }
  return bits;
}

class Step {
 public:
  Step(cpu::Arithmetic arithmetic, std::int64_t rows, const Numbers& numbers)
      : arithmetic_(arithmetic), rows_(rows), numbers_(numbers) {
    std::fill_n(static_cast<float*>(o), kDimV * rows, 0.0f);
    std::fill_n(static_cast<float*>(max), rows, -kInf);
    std::fill_n(static_cast<float*>(sum), rows, 0.0f);
    std::fill_n(static_cast<float*>(exact_sum), rows, 0.0f);
  }

  void run(cpu::TileStep step) {
    const std::int64_t qk = cpu::depth(arithmetic_.qk), pv = cpu::depth(arithmetic_.pv);
    for (std::int64_t row = 0; row < rows_; ++row) {
      q_scale[row] = 0.001f * static_cast<float>(1 + row % 3);
      for (std::int64_t d = 0; d < kDimQk; d += qk) {
        q[d / qk * rows_ + row] = word(arithmetic_.qk, &numbers_.q[row * kDimQk + d], 1, true);
      }
    }
    bool special = false;
    for (std::int64_t j = 0; j < kKeys; ++j) {
      k_scale[j] = j % 2 == 0 ? 1.0f : 0.5f;
      float total = 0.0f;
      for (std::int64_t d = 0; d < kDimQk; ++d) total += numbers_.k[j * kDimQk + d];
      k_start[j] = -128 * static_cast<std::int32_t>(total);
      for (std::int64_t d = 0; d < kDimQk; d += qk) {
        k[(j * kDimQk + d) / qk] = word(arithmetic_.qk, &numbers_.k[j * kDimQk + d], 1, false);
      }
    }
    std::vector<float> finite = numbers_.v;
    for (float& x : finite) {
      if (std::isfinite(x)) continue;
      x = 0.0f;
      special = true;
    }
    for (std::int64_t j = 0; j < kKeys; j += pv) {
      for (std::int64_t i = 0; i < kDimV; ++i) {
        v[j / pv * kDimV + i] = word(arithmetic_.pv, &finite[j * kDimV + i], kDimV, false);
      }
    }
    step.arithmetic = arithmetic_;
    step.dim_qk = kDimQk;
    step.dim_v = kDimV;
    step.scores = scores;
    cpu::attend_tile(step,
                     {.k = k,
                      .k_start = k_start,
                      .k_scale = k_scale,
                      .v = v,
                      .v_scale = 2.0f,
                      .v_all = special ? numbers_.v.data() : nullptr},
                     {.rows = rows_,
                      .q = q,
                      .q_scale = q_scale,
                      .o = o,
                      .max = max,
                      .sum = sum,
                      .exact_sum = exact_sum});
  }

  // O of a row after one step, by loops; P is not rounded. `seen` says which keys count.
  template <class F>
  std::vector<double> expected(std::int64_t row, float cap, F&& seen) {
    std::vector<double> z(kKeys, -static_cast<double>(kInf));
    double largest = -static_cast<double>(kInf);
    for (std::int64_t j = 0; j < kKeys; ++j) {
      if (!seen(j)) continue;
      double dot = 0;
      for (std::int64_t d = 0; d < kDimQk; ++d) {
        dot += static_cast<double>(numbers_.q[row * kDimQk + d]) * numbers_.k[j * kDimQk + d];
      }
      z[j] = dot * k_scale[j] * q_scale[row];
      if (cap > 0) z[j] = cap * std::tanh(z[j] / cap);
      largest = std::max(largest, z[j]);
    }
    std::vector<double> result(kDimV);
    double total = 0;
    for (std::int64_t j = 0; j < kKeys; ++j) {
      if (!seen(j)) continue;
      const double p = std::exp2(z[j] - largest);
      total += p;
      for (std::int64_t i = 0; i < kDimV; ++i) result[i] += p * 2 * numbers_.v[j * kDimV + i];
    }
    for (double& x : result) x /= total;
    exact_lse = largest + std::log2(total);
    return result;
  }

  double exact_lse = 0;
  Aligned<std::uint32_t> q{kDimQk * 32}, k{kKeys * kDimQk}, v{kKeys * kDimV};
  Aligned<float> q_scale{32}, k_scale{kKeys}, o{kDimV * 32}, max{32}, sum{32}, exact_sum{32};
  Aligned<std::int32_t> k_start{kKeys};
  Aligned<float> scores{kKeys * 32};

 private:
  cpu::Arithmetic arithmetic_;
  std::int64_t rows_;
  const Numbers& numbers_;
};

template <class F>
void for_each_arithmetic(F&& f) {
  for_each_target([&] {
    for (const cpu::Arithmetic arithmetic : arithmetics()) {
      SCOPED_TRACE(std::string(name(arithmetic.qk)) + " " + name(arithmetic.pv));
      for (const std::int64_t rows : {cpu::row_block(1), cpu::row_block(64)}) f(arithmetic, rows);
    }
  });
}

// for_each_target() forces Highway's targets; this adds what the CPU itself would choose.
template <class F>
void on_every_kernel(F&& f) {
  for_each_arithmetic(f);
  for (const cpu::Arithmetic arithmetic : arithmetics()) {
    SCOPED_TRACE(std::string("chosen: ") + name(arithmetic.qk) + " " + name(arithmetic.pv));
    for (const std::int64_t rows : {cpu::row_block(1), cpu::row_block(64)}) f(arithmetic, rows);
  }
}

// Of O: P is off by half a step at most, and V here is below 8.
double tolerance(cpu::Arithmetic arithmetic, bool p_e4m3) {
  if (p_e4m3) return 8 * 0x1p-4;
  return arithmetic.pv == cpu::Product::bf16 ? 8 * 0x1p-9 : 2e-5;
}

TEST(CpuKernels, AgreeWithLoops) {
  on_every_kernel([](cpu::Arithmetic arithmetic, std::int64_t rows) {
    const Numbers numbers = random_numbers(rows, 1);
    for (const bool p_e4m3 : {false, true}) {
      for (const float cap : {0.0f, 3.0f}) {
        Step step(arithmetic, rows, numbers);
        step.run({.key_begin = 8, .key_end = 120, .cap = cap, .p_e4m3 = p_e4m3});
        for (std::int64_t row = 0; row < rows; ++row) {
          const auto o = step.expected(row, cap, [](std::int64_t j) { return j >= 8 && j < 120; });
          for (std::int64_t i = 0; i < kDimV; ++i) {
            ASSERT_NEAR(step.o[i * rows + row] / step.sum[row], o[i], tolerance(arithmetic, p_e4m3))
                << row << " " << i;
          }
          const double bias = p_e4m3 ? cpu::kE4m3Bias : 0;
          ASSERT_NEAR(step.max[row] - bias + std::log2(step.exact_sum[row]), step.exact_lse, 2e-5);
        }
      }
    }
  });
}

TEST(CpuKernels, RowsSeeTheirOwnKeys) {
  on_every_kernel([](cpu::Arithmetic arithmetic, std::int64_t rows) {
    const Numbers numbers = random_numbers(rows, 2);
    Aligned<std::int32_t> begin(rows), end(rows);
    for (std::int64_t row = 0; row < rows; ++row) {
      begin[row] = static_cast<std::int32_t>(row);
      end[row] = static_cast<std::int32_t>(100 - row);
    }
    Step step(arithmetic, rows, numbers);
    step.run({.key_begin = 0, .key_end = 128, .row_begin = begin, .row_end = end});
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto o =
          step.expected(row, 0.0f, [&](std::int64_t j) { return j >= begin[row] && j < end[row]; });
      for (std::int64_t i = 0; i < kDimV; ++i) {
        ASSERT_NEAR(step.o[i * rows + row] / step.sum[row], o[i], tolerance(arithmetic, false));
      }
    }
  });
}

TEST(CpuKernels, SpecialValuesReachTheRowsThatSeeThem) {
  on_every_kernel([](cpu::Arithmetic arithmetic, std::int64_t rows) {
    Numbers numbers = random_numbers(rows, 3);
    numbers.v[50 * kDimV + 5] = std::numeric_limits<float>::quiet_NaN();
    numbers.v[51 * kDimV + 6] = -kInf;
    Aligned<std::int32_t> begin(rows), end(rows);
    std::fill_n(static_cast<std::int32_t*>(begin), rows, 0);
    std::fill_n(static_cast<std::int32_t*>(end), rows, 50);
    end[rows - 1] = 52;
    Step step(arithmetic, rows, numbers);
    step.run({.key_begin = 0, .key_end = 64, .row_begin = begin, .row_end = end});
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t i = 0; i < kDimV; ++i) {
        const float o = step.o[i * rows + row];
        const bool reached = row == rows - 1 && (i == 5 || i == 6);
        ASSERT_EQ(std::isfinite(o), !reached) << row << " " << i;
      }
    }
  });
}

}  // namespace
}  // namespace sotto::test

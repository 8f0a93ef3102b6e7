// append_kv(): what the header promises, of both CPU backends, and the two against each other.
#include "cpu/append.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/quantize.h"
#include "host_tensor.h"
#include "reference/quantize.h"

namespace sotto {
namespace {

using test::HostTensor;

struct Implementation {
  const char* name;
  void (*append)(const AppendKvArgs&);
  void (*quantize)(const QuantizeArgs&);
};

class Append : public testing::TestWithParam<Implementation> {
 protected:
  void append(const AppendKvArgs& args) const { GetParam().append(args); }
  void quantize(const QuantizeArgs& args) const { GetParam().quantize(args); }
};

INSTANTIATE_TEST_SUITE_P(Backends, Append,
                         testing::Values(Implementation{"cpu", cpu::append_kv, cpu::quantize},
                                         Implementation{"reference", reference::append_kv,
                                                        reference::quantize}),
                         [](const auto& test) { return std::string(test.param.name); });

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Tensor matrix(HostTensor& ints, std::int64_t rows, std::int64_t columns) {
  return Tensor(ints.view().data, Dtype::i32, {rows, columns});
}

// One row's elements of a [first, second, heads, dim] tensor.
std::vector<float> row_of(const HostTensor& t, std::int64_t first, std::int64_t second,
                          std::int64_t head) {
  const Tensor& view = t;
  std::vector<float> row;
  for (std::int64_t c = 0; c < view.size(3); ++c) {
    row.push_back(
        t.get(((first * view.size(1) + second) * view.size(2) + head) * view.size(3) + c));
  }
  return row;
}

bool untouched(const HostTensor& t, std::int64_t first, std::int64_t second) {
  const Tensor& view = t;
  const std::int64_t row = view.size(2) * view.size(3);
  const std::byte* data = view.at((first * view.size(1) + second) * row);
  for (std::int64_t i = 0; i < row * dtype_size(view.dtype); ++i) {
    if (data[i] != HostTensor::kUntouched) return false;
  }
  return true;
}

TEST_P(Append, GoesBehindWhatIsThereAndNowhereElse) {
  // Two sequences with 1 and 3 tokens, two new ones each, in rows 2 and 0 of a cache of three.
  std::mt19937 random(1);
  const HostTensor k = HostTensor::normal(Dtype::bf16, {2, 2, 3, 16}, random);
  const HostTensor v = HostTensor::normal(Dtype::bf16, {2, 2, 3, 32}, random);
  HostTensor k_cache(Dtype::bf16, {3, 5, 3, 16}), v_cache(Dtype::f32, {3, 5, 3, 32});
  const HostTensor lens = HostTensor::ints({1, 3}), rows = HostTensor::ints({2, 0});
  AppendKvArgs args;
  args.k = k;
  args.v = v;
  args.k_cache = k_cache;
  args.v_cache = v_cache;
  args.cache_seqlens = lens;
  args.batch_idx = rows;
  append(args);
  for (std::int64_t row = 0; row < 3; ++row) {
    for (std::int64_t position = 0; position < 5; ++position) {
      const std::int64_t sequence = row == 2 ? 0 : 1, token = position - (row == 2 ? 1 : 3);
      if (row == 1 || token < 0 || token >= 2) {
        EXPECT_TRUE(untouched(k_cache, row, position)) << row << " " << position;
        EXPECT_TRUE(untouched(v_cache, row, position)) << row << " " << position;
        continue;
      }
      for (std::int64_t head = 0; head < 3; ++head) {
        EXPECT_EQ(row_of(k_cache, row, position, head), row_of(k, sequence, token, head));
        EXPECT_EQ(row_of(v_cache, row, position, head), row_of(v, sequence, token, head));
      }
    }
  }
  EXPECT_TRUE(k_cache.end_is_untouched() && v_cache.end_is_untouched());
}

TEST_P(Append, FindsPagesOfAnySize) {
  std::mt19937 random(2);
  for (const std::int64_t page_size : {1, 2, 3, 7}) {
    // Packed: 4, 0 and 3 new tokens; capacity 9 tokens each; pages in reverse order.
    const std::int64_t per_sequence = (9 + page_size - 1) / page_size, pages = 3 * per_sequence;
    std::vector<std::int32_t> order;
    for (std::int64_t p = pages; p-- > 0;) order.push_back(static_cast<std::int32_t>(p));
    HostTensor table = HostTensor::ints(order);
    const HostTensor k = HostTensor::normal(Dtype::f16, {7, 2, 16}, random);
    HostTensor k_cache(Dtype::f16, {pages, page_size, 2, 16});
    HostTensor v_cache(Dtype::f16, {pages, page_size, 2, 16});
    const HostTensor lens = HostTensor::ints({5, 2, 0}),
                     cu_seqlens = HostTensor::ints({0, 4, 4, 7});
    AppendKvArgs args;
    args.k = k;
    args.v = k;
    args.k_cache = k_cache;
    args.v_cache = v_cache;
    args.cache_seqlens = lens;
    args.cu_seqlens = cu_seqlens;
    args.page_table = matrix(table, 3, per_sequence);
    append(args);
    const std::int64_t begins[] = {5, 2, 0}, counts[] = {4, 0, 3}, firsts[] = {0, 4, 4};
    for (std::int64_t b = 0; b < 3; ++b) {
      for (std::int64_t position = 0; position < per_sequence * page_size; ++position) {
        const std::int64_t page =
            order[static_cast<std::size_t>(b * per_sequence + position / page_size)];
        const std::int64_t token = position - begins[b];
        if (token < 0 || token >= counts[b]) {
          EXPECT_TRUE(untouched(k_cache, page, position % page_size));
          continue;
        }
        for (std::int64_t c = 0; c < 32; ++c) {
          const std::int64_t slot = (page * page_size + position % page_size) * 32 + c;
          EXPECT_EQ(k_cache.get(slot), k.get((firsts[b] + token) * 32 + c));
          EXPECT_EQ(v_cache.get(slot), k.get((firsts[b] + token) * 32 + c));
        }
      }
    }
  }
}

TEST_P(Append, GivenScalesSaturateAndBroadcast) {
  const HostTensor k(Dtype::f32, {1, 1, 2, 4}, {1000, -1, 0.5f, kNaN, 1000, -1, 0.5f, 3});
  HostTensor k_cache(Dtype::i8, {1, 2, 2, 4}), v_cache(Dtype::e4m3, {1, 2, 2, 4});
  HostTensor k_scale(Dtype::f32, {1, 1}, {0.5f});
  const HostTensor v_scale(Dtype::f32, {1, 2}, {1.0f, 2.0f}), lens = HostTensor::ints({0});
  Tensor broadcast = k_scale;
  broadcast.shape[1] = 2;
  broadcast.strides[0] = broadcast.strides[1] = 0;
  AppendKvArgs args;
  args.k = k;
  args.v = k;
  args.k_cache = k_cache;
  args.v_cache = v_cache;
  args.cache_seqlens = lens;
  args.k_descale = Scale::per_head(broadcast);
  args.v_descale = Scale::per_head(v_scale);
  append(args);
  EXPECT_EQ(row_of(k_cache, 0, 0, 0), (std::vector<float>{127, -2, 1, 0}));
  EXPECT_EQ(row_of(k_cache, 0, 0, 1), (std::vector<float>{127, -2, 1, 6}));
  EXPECT_EQ(v_cache.get(0), 448.0f);
  EXPECT_EQ(v_cache.get(1), -1.0f);
  EXPECT_TRUE(std::isnan(v_cache.get(3)));
  EXPECT_EQ(row_of(v_cache, 0, 0, 1), (std::vector<float>{448, -0.5f, 0.25f, 1.5f}));
  EXPECT_EQ(k_scale.get(0), 0.5f);
  EXPECT_EQ(v_scale.values(), (std::vector<float>{1, 2}));

  args.v_descale = {};  // absent: 1
  append(args);
  EXPECT_EQ(row_of(v_cache, 0, 0, 1), (std::vector<float>{448, -1, 0.5f, 3}));
}

TEST_P(Append, TokenScalesAreWrittenAsQuantizeWould) {
  std::mt19937 random(3);
  const HostTensor k = HostTensor::normal(Dtype::bf16, {1, 3, 2, 16}, random);
  HostTensor k_cache(Dtype::i8, {4, 2, 2, 16}), v_cache(Dtype::e4m3, {4, 2, 2, 16});
  HostTensor k_scale(Dtype::f32, {4, 2, 2}), v_scale(Dtype::f32, {4, 2, 2});
  HostTensor table = HostTensor::ints({3, 1, 0});
  const HostTensor lens = HostTensor::ints({1});
  AppendKvArgs args;
  args.k = k;
  args.v = k;
  args.k_cache = k_cache;
  args.v_cache = v_cache;
  args.cache_seqlens = lens;
  args.page_table = matrix(table, 1, 3);
  args.k_descale = Scale::per_token(k_scale);
  args.v_descale = Scale::per_token(v_scale);
  append(args);
  for (const bool of_k : {true, false}) {
    HostTensor out(of_k ? Dtype::i8 : Dtype::e4m3, {1, 3, 2, 16}), descale(Dtype::f32, {1, 3, 2});
    QuantizeArgs direct;
    direct.x = k;
    direct.out = out;
    direct.descale = Scale::per_token(descale);
    quantize(direct);
    const std::int64_t slots[] = {3 * 2 + 1, 1 * 2 + 0, 1 * 2 + 1};
    for (std::int64_t t = 0; t < 3; ++t) {
      for (std::int64_t h = 0; h < 2; ++h) {
        EXPECT_EQ((of_k ? k_scale : v_scale).get(slots[t] * 2 + h), descale.get(t * 2 + h));
        EXPECT_EQ(row_of(of_k ? k_cache : v_cache, slots[t] / 2, slots[t] % 2, h),
                  row_of(out, 0, t, h));
      }
    }
  }
  const std::byte* first = k_scale.view().at(0);
  EXPECT_EQ(*first, HostTensor::kUntouched);
}

TEST_P(Append, TransformsAtThePositionInTheCache) {
  std::mt19937 random(4);
  const std::int64_t dim = 24, before = 5, added = 3;
  const HostTensor k = HostTensor::normal(Dtype::f32, {1, added, 2, dim}, random);
  const HostTensor cos = HostTensor::normal(Dtype::f32, {16, 6}, random);
  const HostTensor sin = HostTensor::normal(Dtype::f32, {16, 6}, random);
  const HostTensor k_mean = HostTensor::normal(Dtype::f32, {1, 2, dim}, random);
  const HostTensor v_mean = HostTensor::normal(Dtype::f32, {1, 2, dim}, random);
  HostTensor k_cache(Dtype::f32, {1, 8, 2, dim}), v_cache(Dtype::f32, {1, 8, 2, dim});
  const HostTensor lens = HostTensor::ints({before});
  AppendKvArgs args;
  args.k = k;
  args.v = k;
  args.k_cache = k_cache;
  args.v_cache = v_cache;
  args.cache_seqlens = lens;
  args.rope.cos = cos;
  args.rope.sin = sin;
  args.rope.rotary_dim = 12;
  args.hadamard_k = true;
  args.hadamard_v = true;
  args.k_mean = k_mean;
  args.v_mean = v_mean;
  for (const bool given : {false, true}) {
    HostTensor positions = HostTensor::ints({11, 0, 7});
    if (given) args.rope.positions = matrix(positions, 1, added);
    append(args);
    for (std::int64_t t = 0; t < added; ++t) {
      const std::int64_t p =
          given ? std::vector<std::int64_t>{11, 0, 7}[static_cast<std::size_t>(t)] : before + t;
      for (std::int64_t h = 0; h < 2; ++h) {
        const std::vector<float> x = row_of(k, 0, t, h);
        std::vector<double> expected_v(x.begin(), x.end()), expected_k = expected_v;
        for (std::size_t i = 0; i < 6; ++i) {
          const double c = cos.get(p * 6 + static_cast<std::int64_t>(i));
          const double s = sin.get(p * 6 + static_cast<std::int64_t>(i));
          expected_k[i] = x[i] * c - x[i + 6] * s;
          expected_k[i + 6] = x[i + 6] * c + x[i] * s;
        }
        reference::hadamard_row(expected_k.data(), dim);
        reference::hadamard_row(expected_v.data(), dim);
        const std::vector<float> seen_k = row_of(k_cache, 0, before + t, h);
        const std::vector<float> seen_v = row_of(v_cache, 0, before + t, h);
        for (std::size_t c = 0; c < seen_k.size(); ++c) {
          const std::int64_t channel = h * dim + static_cast<std::int64_t>(c);
          EXPECT_NEAR(seen_k[c], expected_k[c] - k_mean.get(channel), 4e-6);
          EXPECT_NEAR(seen_v[c], expected_v[c] - v_mean.get(channel), 4e-6);
        }
      }
    }
  }
}

TEST_P(Append, InPiecesAsAtOnce) {
  std::mt19937 random(5);
  HostTensor k = HostTensor::normal(Dtype::bf16, {1, 6, 2, 64}, random);
  const HostTensor cos = HostTensor::normal(Dtype::f32, {6, 32}, random);
  const HostTensor sin = HostTensor::normal(Dtype::f32, {6, 32}, random);
  HostTensor caches[2], scales[2];
  for (int pieces = 0; pieces < 2; ++pieces) {
    caches[pieces] = HostTensor(Dtype::i8, {1, 6, 2, 64});
    scales[pieces] = HostTensor(Dtype::f32, {1, 6, 2});
    HostTensor v_cache(Dtype::bf16, {1, 6, 2, 64});
    const std::vector<std::int32_t> ends =
        pieces == 0 ? std::vector<std::int32_t>{6} : std::vector<std::int32_t>{1, 4, 6};
    std::int32_t begin = 0;
    for (const std::int32_t end : ends) {
      const HostTensor lens = HostTensor::ints({begin});
      AppendKvArgs args;
      args.k = k.view();
      args.k.data = k.view().at(begin * 2 * 64);
      args.k.shape[1] = end - begin;
      args.v = args.k;
      args.k_cache = caches[pieces];
      args.v_cache = v_cache;
      args.cache_seqlens = lens;
      args.k_descale = Scale::per_token(scales[pieces]);
      args.rope.cos = cos;
      args.rope.sin = sin;
      args.hadamard_k = true;
      append(args);
      begin = end;
    }
  }
  EXPECT_EQ(caches[0].bytes(), caches[1].bytes());
  EXPECT_EQ(scales[0].bytes(), scales[1].bytes());
}

// As in QuantizeAgreement: without RoPE, Hadamard and means bit for bit, else a code may differ by
// one step where the float that is rounded lies at a tie.
TEST(AppendAgreement, RandomRequests) {
  std::int64_t codes = 0, different = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<std::int64_t>(random()) % n; };
    const std::int64_t dims[] = {16, 64, 80, 128};
    const Dtype cache_dtypes[] = {Dtype::i8, Dtype::e4m3, Dtype::f16, Dtype::bf16, Dtype::f32};
    const std::int64_t batch = 1 + pick(3), heads = 1 + pick(3), added = pick(20);
    const std::int64_t dim_k = dims[pick(4)], dim_v = dims[pick(4)];
    const bool paged = pick(2) == 0, transforms = pick(2) == 0;
    const std::int64_t page_size = paged ? 1 + pick(6) : 40;
    const std::int64_t per_sequence = (40 + page_size - 1) / page_size;
    const std::int64_t rows = paged ? batch * per_sequence : batch + 1;

    const HostTensor k = HostTensor::normal(Dtype::bf16, {batch, added, heads, dim_k}, random);
    const HostTensor v = HostTensor::normal(Dtype::f16, {batch, added, heads, dim_v}, random);
    std::vector<std::int32_t> lens, order, row_of_sequence;
    for (std::int64_t b = 0; b < batch; ++b) {
      lens.push_back(static_cast<std::int32_t>(pick(20)));
      row_of_sequence.push_back(static_cast<std::int32_t>(batch - b));
    }
    for (std::int64_t p = 0; p < rows; ++p) order.push_back(static_cast<std::int32_t>(p));
    std::shuffle(order.begin(), order.end(), random);
    HostTensor table = HostTensor::ints(order);
    const HostTensor cache_seqlens = HostTensor::ints(lens);
    const HostTensor batch_idx = HostTensor::ints(row_of_sequence);
    const HostTensor cos = HostTensor::normal(Dtype::f32, {40, dim_k / 2}, random);
    const HostTensor sin = HostTensor::normal(Dtype::f32, {40, dim_k / 2}, random);
    const HostTensor k_mean = HostTensor::normal(Dtype::f32, {batch, heads, dim_k}, random);
    const HostTensor v_mean = HostTensor::normal(Dtype::f32, {batch, heads, dim_v}, random);
    HostTensor head_scale(Dtype::f32, {batch, heads});
    for (std::int64_t i = 0; i < head_scale.numel(); ++i) {
      head_scale.set(i, 0.01f + 0.001f * static_cast<float>(i));
    }

    AppendKvArgs args;
    args.k = k;
    args.v = v;
    args.cache_seqlens = cache_seqlens;
    if (paged) {
      args.page_table = matrix(table, batch, per_sequence);
    } else {
      args.batch_idx = batch_idx;
    }
    if (transforms) {
      args.rope.cos = cos;
      args.rope.sin = sin;
      args.rope.interleaved = pick(2) == 0;
      args.hadamard_k = pick(2) == 0;
      args.hadamard_v = pick(2) == 0;
      args.k_mean = k_mean;
      args.v_mean = v_mean;
    }
    const Dtype k_dtype = cache_dtypes[pick(5)], v_dtype = cache_dtypes[1 + pick(4)];
    const bool k_token = pick(2) == 0, v_token = pick(2) == 0;
    HostTensor results[2][4];
    void (*appends[])(const AppendKvArgs&) = {cpu::append_kv, reference::append_kv};
    for (int i = 0; i < 2; ++i) {
      auto& [k_cache, v_cache, k_scale, v_scale] = results[i];
      k_cache = HostTensor(k_dtype, {rows, page_size, heads, dim_k});
      v_cache = HostTensor(v_dtype, {rows, page_size, heads, dim_v});
      k_scale = HostTensor(Dtype::f32, {rows, page_size, heads});
      v_scale = HostTensor(Dtype::f32, {rows, page_size, heads});
      args.k_cache = k_cache;
      args.v_cache = v_cache;
      args.k_descale = args.v_descale = {};
      if (core::is_quantized(k_dtype)) {
        args.k_descale = k_token ? Scale::per_token(k_scale) : Scale::per_head(head_scale);
      }
      if (core::is_quantized(v_dtype)) {
        args.v_descale = v_token ? Scale::per_token(v_scale) : Scale::per_head(head_scale);
      }
      appends[i](args);
    }
    for (int t = 0; t < 4; ++t) {
      const HostTensor &a = results[0][t], &b = results[1][t];
      if (!transforms) {
        ASSERT_EQ(a.bytes(), b.bytes()) << t;
        continue;
      }
      ASSERT_TRUE(a.end_is_untouched());
      for (std::int64_t i = 0; i < a.numel(); ++i) {
        const float x = a.get(i), y = b.get(i);
        if (std::isnan(y)) {
          ASSERT_TRUE(std::isnan(x)) << t << " " << i;
          continue;
        }
        ++codes;
        if (x == y) continue;
        const Dtype dtype = t == 0 ? k_dtype : t == 1 ? v_dtype : Dtype::f32;
        if (core::is_quantized(dtype)) ++different;
        const float step = dtype == Dtype::i8     ? 1.0f
                           : dtype == Dtype::e4m3 ? std::max(std::fabs(y) / 8, 0x1p-9f)
                           : dtype == Dtype::f32  ? 2e-5f
                                                  : std::max(std::fabs(y) / 128, 2e-5f);
        ASSERT_LE(std::fabs(x - y), step) << t << " " << i;
      }
    }
  }
  EXPECT_GT(codes, 500000);
  EXPECT_LT(different, codes / 2000);
}

}  // namespace
}  // namespace sotto

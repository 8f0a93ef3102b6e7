// Sizes, strides and offsets beyond 32 and at the end of 64 bits: views that nobody allocates where
// only shapes count, address space that is reserved and hardly touched where data does.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/each_tensor.h"
#include "request.h"

#if defined(__has_feature)
#define SOTTO_TEST_WITH(sanitizer) __has_feature(sanitizer##_sanitizer)
#else
#define SOTTO_TEST_WITH(sanitizer) SOTTO_TEST_WITH_##sanitizer
#if defined(__SANITIZE_ADDRESS__)
#define SOTTO_TEST_WITH_address 1
#endif
#if defined(__SANITIZE_THREAD__)
#define SOTTO_TEST_WITH_thread 1
#endif
#endif

namespace sotto::test {
namespace {

constexpr std::int64_t k2to31 = std::int64_t{1} << 31;
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

// A view at an address that nobody may follow.
Tensor view(Dtype dtype, std::initializer_list<std::int64_t> shape, std::uintptr_t place) {
  return Tensor(reinterpret_cast<void*>(place << 20), dtype, shape);
}

AttentionArgs request(std::int64_t batch, std::int64_t len_q, std::int64_t len_k,
                      std::int64_t heads = 2) {
  return {.q = view(Dtype::bf16, {batch, len_q, heads, 64}, 1),
          .k = view(Dtype::bf16, {batch, len_k, heads, 64}, 2),
          .v = view(Dtype::bf16, {batch, len_k, heads, 64}, 3),
          .out = view(Dtype::bf16, {batch, len_q, heads, 64}, 4)};
}

// The text of the error, or "" where there is none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Sizes, LengthsBeyond32BitsArePlannedAndExplained) {
  for (const auto& [batch, len_q, len_k] :
       std::vector<std::array<std::int64_t, 3>>{{1, 1, k2to31 - 1},
                                                {1, k2to31 + 5, k2to31 + 5},
                                                {3, 1, k2to31 * 16},
                                                {k2to31 + 1, 1, 4},
                                                {1, k2to31 * 1024, 1}}) {
    for (const char* backend : {"cpu", "reference"}) {
      AttentionArgs args = request(batch, len_q, len_k);
      args.backend = backend;
      args.mask = Mask::causal_bottom_right();
      const AttentionPlan plan(args);
      EXPECT_LT(plan.workspace_size(), std::size_t{1} << 30) << len_q << " × " << len_k;
      EXPECT_FALSE(explain(args).text().empty());
      const SdpaPlan sdpa(args);
      // At least the quantised copies of Q, K and V.
      EXPECT_GE(sdpa.workspace_size(),
                static_cast<std::size_t>(batch * (len_q + 2 * len_k) * 2 * 64));
    }
  }
}

TEST(Sizes, PartialResultsAreCountedIn64Bits) {
  AttentionArgs args = request(1, std::int64_t{1} << 33, k2to31);
  args.num_splits = 1024;
  const AttentionPlan plan(args);
  EXPECT_GE(plan.workspace_size(), std::size_t{1} << 40);
}

TEST(Sizes, WhatPasses64BitsIsRefusedByName) {
  const auto refused = [](AttentionArgs args, const std::string& argument) {
    for (const char* backend : {"cpu", "reference"}) {
      args.backend = backend;
      for (const std::string& text :
           {error_of([&] { AttentionPlan plan(args); }), error_of([&] { SdpaPlan plan(args); })}) {
        EXPECT_EQ(text.find(argument + ": "), 0u) << text;
        EXPECT_NE(text.find("64 bits"), std::string::npos) << text;
      }
    }
  };
  AttentionArgs args = request(2, 3, 5);
  args.q.shape[0] = args.k.shape[0] = args.v.shape[0] = args.out.shape[0] = kMost / 2;
  refused(args, "q");
  for (const char* name : {"q", "k", "v"}) {
    args = request(2, 3, 5);
    Tensor& tensor = *name == 'q' ? args.q : *name == 'k' ? args.k : args.v;
    tensor.strides[0] = kMost - 10;
    refused(args, name);
    tensor.strides[0] = kMost / 2;  // elements fit, bytes do not
    refused(args, name);
  }
  // Legal views, but more memory than there are addresses.
  args = request(1, std::int64_t{1} << 45, k2to31 * 64);
  args.num_splits = std::numeric_limits<int>::max();
  for (const char* backend : {"cpu", "reference"}) {
    args.backend = backend;
    std::size_t bytes = 0;
    const std::string text = error_of([&] { bytes = AttentionPlan(args).workspace_size(); });
    if (std::string_view(backend) == "cpu") {
      EXPECT_NE(text.find("num_splits"), std::string::npos) << text << bytes;
    }
  }
  EXPECT_NE(error_of([] {
              Tensor(nullptr, Dtype::f32, {k2to31, k2to31, 4});
            }).find("64 bits"),
            std::string::npos);
}

#if !SOTTO_TEST_WITH(address) && !SOTTO_TEST_WITH(thread)  // which end the program then
TEST(Sizes, WorkspacesThatNobodyHasAreAnErrorThatSaysHowMuch) {
  AttentionArgs args = request(1, k2to31, 1 << 20);
  const std::string text = error_of([&] { sdpa(args); });
  EXPECT_EQ(text.find("workspace: "), 0u) << text;
}
#endif

TEST(Sizes, OperationsTakeLongViews) {
  const std::int64_t len = k2to31 + 7;
  const Tensor x = view(Dtype::bf16, {1, len, 2, 64}, 1),
               out = view(Dtype::e4m3, {1, len, 2, 64}, 2);
  for (const Scale& scale :
       {Scale::per_token(view(Dtype::f32, {1, len, 2}, 3)),
        Scale::per_block(view(Dtype::f32, {1, 2, (len + 127) / 128}, 3), 128)}) {
    EXPECT_TRUE(explain(QuantizeArgs{.x = x, .out = out, .descale = scale}).answers[0].chosen);
  }
  const std::string text = error_of([&] {
    explain(QuantizeArgs{
        .x = x, .out = out, .descale = Scale::per_token(view(Dtype::f32, {1, 7, 2}, 3))});
  });
  EXPECT_NE(text.find(std::to_string(len)), std::string::npos) << text;
}

#if !SOTTO_TEST_WITH(thread)  // which keeps too little of the address space for programs

// The same tensor with its elements so far apart that the last one lies beyond 2^32; a contiguous
// last dimension stays so.
Tensor spread(Arena& arena, const Tensor& tensor, bool contiguous_last) {
  if (!tensor || tensor.numel() < 2) return tensor;
  Tensor far = tensor;
  const std::int64_t inner = contiguous_last ? tensor.size(tensor.rank - 1) : 1;
  std::int64_t step = (std::int64_t{1} << 33) / (tensor.numel() / inner);
  for (int d = tensor.rank - 1; d >= 0; --d) {
    const auto at = static_cast<std::size_t>(d);
    if (contiguous_last && d == tensor.rank - 1) {
      far.strides[at] = 1;
      continue;
    }
    far.strides[at] = step;
    step *= tensor.size(d);
  }
  far.data = arena.make(tensor.dtype, {step}).data;
  return far;
}

// Calls f(offset in a, offset in b) for each element of two tensors of one shape.
template <class F>
void each_pair(const Tensor& a, const Tensor& b, F&& f, int d = 0, std::int64_t at_a = 0,
               std::int64_t at_b = 0) {
  if (d == a.rank) return f(at_a, at_b);
  for (std::int64_t i = 0; i < a.size(d); ++i) {
    each_pair(a, b, f, d + 1, at_a + i * a.stride(d), at_b + i * b.stride(d));
  }
}

void copy(const Tensor& from, const Tensor& to) {
  if (from.data == to.data) return;
  each_pair(from, to, [&](std::int64_t a, std::int64_t b) {
    std::memcpy(to.at(b), from.at(a), static_cast<std::size_t>(dtype_size(from.dtype)));
  });
}

bool same(const Tensor& x, const Tensor& y) {
  bool equal = true;
  each_pair(x, y, [&](std::int64_t a, std::int64_t b) {
    equal &= std::memcmp(x.at(a), y.at(b), static_cast<std::size_t>(dtype_size(x.dtype))) == 0;
  });
  return equal;
}

class FarTensors : public testing::TestWithParam<std::string> {
 protected:
  // Runs a request as it is and with every tensor spread out; outputs must be the same.
  template <class Args, class Run>
  void compare(Args args, const std::vector<Tensor Args::*>& contiguous,
               const std::vector<Tensor Args::*>& written, Run&& run) {
    Arena arena;
    args.backend = GetParam();
    Args far = args;
    std::vector<Tensor*> near_tensors, far_tensors;
    core::each_tensor(
        args, [&](const char*, core::Access, Tensor& tensor) { near_tensors.push_back(&tensor); });
    core::each_tensor(
        far, [&](const char*, core::Access, Tensor& tensor) { far_tensors.push_back(&tensor); });
    for (std::size_t n = 0; n < near_tensors.size(); ++n) {
      const bool rows = std::any_of(contiguous.begin(), contiguous.end(), [&](auto member) {
        return near_tensors[n] == &(args.*member);
      });
      *far_tensors[n] = spread(arena, *near_tensors[n], rows);
      if (*near_tensors[n]) copy(*near_tensors[n], *far_tensors[n]);
    }
    run(args);
    run(far);
    for (auto member : written) EXPECT_TRUE(same(args.*member, far.*member));
  }

  void attend(const std::string& line) {
    SCOPED_TRACE(line);
    const AttentionCase c(line);
    Request request;
    make_request(c, make_data(c), request);
    AttentionArgs args = request.args;
    Arena arena;
    const std::vector<std::int64_t> rows =
        c.packed_q ? std::vector{c.total(c.len_q, 0)} : std::vector{c.batch, c.len_q[0]};
    const auto tensor = [&](std::vector<std::int64_t> tail) {
      tail.insert(tail.begin(), rows.begin(), rows.end());
      return tail;
    };
    args.out = arena.make(Dtype::f32, tensor({c.heads_q, c.dim_v}));
    args.lse = c.packed_q ? arena.make(Dtype::f32, {c.heads_q, rows[0]})
                          : arena.make(Dtype::f32, {c.batch, c.heads_q, rows[1]});
    using A = AttentionArgs;
    compare(args, {&A::q, &A::k, &A::v, &A::out, &A::v_lo}, {&A::out, &A::lse},
            [](const AttentionArgs& a) { attention(a); });
  }
};

TEST_P(FarTensors, Attention) {
  attend("b2 h4/2 d16 q5 k20 in=f32 dense=f32:b:h sinks");
  attend("b2 h4/2 d16 q5 k20 in=f32 dense=bool:1:1 had=qkv v_mean");
  attend("b2 h4/2 d16 q5 k20 in=e4m3 sq=token sk=token sv=token k_mean softcap20");
  attend("b2 h4/2 d16 q5 k20 in=i8/i8/e4m3 sq=block3 sk=block7 sv=block4 row_bias q_mean v_lo");
  attend("b2 h4/2 d16 q5:7 k20:9 packed in=i8/i8/e4m3 sq=block3 sk=token row_bias q_mean");
  attend("b2 h4/2 d16 q1 k40:31 paged3 in=bf16/e4m3/e4m3 sk=token sv=token splits2");
  attend("b2 h4/2 d32 q5 k20 batch_idx in=bf16/i8/e4m3 sk=head");
}

TEST_P(FarTensors, Transforms) {
  constexpr std::int64_t kBatch = 2, kLen = 9, kHeads = 2, kDim = 16;
  Arena arena;
  std::vector<float> values(kBatch * kLen * kHeads * kDim);
  Random random(1);
  fill_normal(values, random);
  const auto make = [&](Dtype dtype) { return arena.make(dtype, {kBatch, kLen, kHeads, kDim}); };
  const auto table = [&](const std::vector<std::int64_t>& shape) {
    const Tensor t = arena.make(Dtype::f32, shape);
    std::copy_n(values.begin(), t.numel(), static_cast<float*>(t.data));
    return t;
  };
  const Tensor x = arena.copy(values, {kBatch, kLen, kHeads, kDim});
  const Rope rope{
      .cos = table({20, kDim / 2}),
      .sin = table({20, kDim / 2}),
      .positions = arena.copy(std::vector<std::int32_t>(kBatch * kLen, 13), {kBatch, kLen})};
  const Tensor lengths = arena.copy(std::vector<std::int32_t>{8, 5}, {kBatch});

  using Q = QuantizeArgs;
  const QuantizeArgs quantize_args{.x = x,
                                   .out = make(Dtype::e4m3),
                                   .out_lo = make(Dtype::e4m3),
                                   .descale = Scale::per_block(table({kBatch, kHeads, 3}), 4),
                                   .rope = rope,
                                   .hadamard = true,
                                   .mean = table({kBatch, kHeads, kDim}),
                                   .dot_with = table({kBatch, 4, kDim}),
                                   .dot = table({kBatch, 4, kLen}),
                                   .seqused = lengths};
  compare(quantize_args, {&Q::x, &Q::out, &Q::out_lo}, {&Q::out, &Q::out_lo, &Q::dot},
          [](const QuantizeArgs& a) { quantize(a); });
  compare(
      ChannelMeanArgs{
          .x = x, .mean = table({kBatch, kHeads, kDim}), .rope = rope, .seqused = lengths},
      {&ChannelMeanArgs::x}, {&ChannelMeanArgs::mean},
      [](const ChannelMeanArgs& a) { channel_mean(a); });

  using A = AppendKvArgs;
  const AppendKvArgs append{
      .k = x,
      .v = x,
      .k_cache = arena.make(Dtype::e4m3, {8, 5, kHeads, kDim}),
      .v_cache = arena.make(Dtype::bf16, {8, 5, kHeads, kDim}),
      .cache_seqlens = arena.copy(std::vector<std::int32_t>{2, 6}, {kBatch}),
      .page_table = arena.copy(std::vector<std::int32_t>{4, 0, 7, 1, 6, 3}, {kBatch, 3}),
      .k_descale = Scale::per_token(table({8, 5, kHeads})),
      .rope = rope,
      .k_mean = table({kBatch, kHeads, kDim})};
  compare(append, {&A::k, &A::v, &A::k_cache, &A::v_cache}, {&A::k_cache, &A::v_cache},
          [](const AppendKvArgs& a) { append_kv(a); });
}

// Few queries of a band against the last of more than 2^31 keys.
TEST_P(FarTensors, KeysBeyond32Bits) {
  if (GetParam() == "reference") GTEST_SKIP() << "a row of float64 scores for each query";
  constexpr std::int64_t kFirst = k2to31 + 1000, kCount = 200, kDim = 16;
  Arena arena;
  const std::vector<std::int64_t> all{1, kFirst + kCount, 1, kDim};
  const Tensor k = arena.make(Dtype::e4m3, all), v = arena.make(Dtype::e4m3, all);
  std::vector<float> values(3 * kDim);
  Random random(3);
  fill_normal(values, random);
  const Tensor q = arena.copy(values, {1, 3, 1, kDim});
  values.resize(2 * kCount * kDim);
  fill_normal(values, random);
  for (std::int64_t n = 0; n < kCount * kDim; ++n) {
    *reinterpret_cast<e4m3*>(k.at(kFirst * kDim + n)) = e4m3(values[static_cast<std::size_t>(n)]);
    *reinterpret_cast<e4m3*>(v.at(kFirst * kDim + n)) =
        e4m3(values[static_cast<std::size_t>(kCount * kDim + n)]);
  }
  AttentionArgs args{.q = q,
                     .k = k,
                     .v = v,
                     .out = arena.make(Dtype::f32, {1, 3, 1, kDim}),
                     .lse = arena.make(Dtype::f32, {1, 1, 3}),
                     .mask = Mask::window(150, 0),
                     .num_splits = 1,
                     .backend = GetParam()};
  attention(args);
  AttentionArgs near = args;
  near.k = Tensor(k.at(kFirst * kDim), Dtype::e4m3, {1, kCount, 1, kDim});
  near.v = Tensor(v.at(kFirst * kDim), Dtype::e4m3, {1, kCount, 1, kDim});
  near.out = arena.make(Dtype::f32, {1, 3, 1, kDim});
  near.lse = arena.make(Dtype::f32, {1, 1, 3});
  attention(near);
  for (std::int64_t n = 0; n < 3 * kDim; ++n) {
    ASSERT_NEAR(static_cast<float*>(args.out.data)[n], static_cast<float*>(near.out.data)[n], 1e-5);
  }
}

// A page table whose entries are all one page: as many keys as one likes.
TEST_P(FarTensors, PagesOfAVeryLongSequence) {
  if (GetParam() == "reference") GTEST_SKIP() << "a row of float64 scores for each query";
  constexpr std::int64_t kPage = 1 << 20, kPages = k2to31 / kPage;
  Arena arena;
  Tensor k = arena.make(Dtype::e4m3, {1, kPage, 1, 16});
  std::memset(k.data, 0x38, static_cast<std::size_t>(k.numel()));  // 1.0
  Tensor table = arena.copy(std::vector<std::int32_t>{0}, {1, 1});
  table.shape = {1, kPages};
  table.strides = {kPages, 0};
  const std::int32_t most = std::numeric_limits<std::int32_t>::max();
  AttentionArgs args{.q = arena.copy(std::vector<float>(16, 1.0f), {1, 1, 1, 16}),
                     .k = k,
                     .v = k,
                     .out = arena.make(Dtype::f32, {1, 1, 1, 16}),
                     .mask = Mask::window(1000, 0),
                     .backend = GetParam()};
  args.seq.seqused_k = arena.copy(std::vector<std::int32_t>{most}, {1});
  args.cache.page_table = table;
  attention(args);
  for (int d = 0; d < 16; ++d) ASSERT_NEAR(static_cast<float*>(args.out.data)[d], 1.0f, 1e-6f);
}

INSTANTIATE_TEST_SUITE_P(, FarTensors, testing::Values("cpu", "reference"),
                         [](const auto& test) { return test.param; });

#endif

}  // namespace
}  // namespace sotto::test

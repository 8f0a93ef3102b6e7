// What is refused, with which words, and that nothing is written before.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "host_tensor.h"
#include "sotto/sotto.h"

namespace sotto {
namespace {

using test::HostTensor;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max() / 2;

// Runs something that must throw; the output must stay as it was.
template <class Run>
void expect_invalid(const HostTensor& out, const std::string& argument, const std::string& words,
                    Run&& run) {
  const std::vector<std::byte> before = out.bytes();
  try {
    run();
    ADD_FAILURE() << "nothing was thrown; expected " << argument << ": …" << words;
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), argument) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos)
        << error.what() << "\n  should say: " << words;
    EXPECT_EQ(std::string(error.what()).find(argument + ": "), 0u) << error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "expected InvalidArgument of " << argument << ", got " << error.what();
  }
  EXPECT_TRUE(out.bytes() == before) << "something was written";
}

// A legal request that a case spoils.
struct Request {
  HostTensor q{Dtype::f32, {2, 5, 4, 64}}, k{Dtype::f32, {2, 7, 2, 64}}, v = k;
  HostTensor out{Dtype::f32, {2, 5, 4, 64}}, lse{Dtype::f32, {2, 4, 5}};
  // More than any case needs.
  HostTensor floats{Dtype::f32, {4096}}, ints{Dtype::i32, {4096}}, bytes{Dtype::e4m3, {65536}};
  HostTensor lengths = HostTensor::ints({3, 2}), offsets = HostTensor::ints({0, 2, 5});
  AttentionArgs args{.q = q, .k = k, .v = v, .out = out, .lse = lse};

  Request() {
    for (HostTensor* t : {&q, &k, &v, &floats}) {
      for (std::int64_t i = 0; i < t->numel(); ++i) t->set(i, 0.25f);
    }
    std::fill_n(static_cast<std::int32_t*>(ints.view().data), ints.numel(), 0);
  }
  Request(const Request&) = delete;

  Tensor table(std::initializer_list<std::int64_t> shape) {
    return Tensor(floats.view().data, Dtype::f32, shape);
  }
  Tensor int_table(std::initializer_list<std::int64_t> shape) {
    return Tensor(ints.view().data, Dtype::i32, shape);
  }
  Tensor codes(Dtype dtype, std::initializer_list<std::int64_t> shape) {
    return Tensor(bytes.view().data, dtype, shape);
  }
  // Changes q, k and v to an 8-bit dtype.
  void quantize_all(Dtype qk) {
    args.q = codes(qk, {2, 5, 4, 64});
    args.k = codes(qk, {2, 7, 2, 64});
    args.v = codes(Dtype::e4m3, {2, 7, 2, 64});
  }
  // Changes q, k, v and out to two packed sequences of 2 and 3 tokens.
  void pack_all() {
    args.q = table({5, 4, 8 * 2});
    args.k = args.v = table({5, 2, 16});
    args.out = Tensor(out.view().data, Dtype::f32, {5, 4, 16});
    args.lse = {};
    args.seq.cu_seqlens_q = args.seq.cu_seqlens_k = offsets;
  }
  // Changes k and v to 4 pages of 3 tokens.
  void page_all() {
    args.k = args.v = Tensor(k.view().data, Dtype::f32, {4, 3, 2, 64});
    args.cache.page_table = int_table({2, 2});
    args.seq.seqused_k = lengths;
  }
};

struct Spoiled {
  const char* argument;
  const char* words;
  std::function<void(Request&)> spoil;
};

class SpoiledRequest : public testing::TestWithParam<Spoiled> {};

const Spoiled kSpoiled[] = {
    // Tensors: presence, rank, shape, dtype, device, strides, alignment, pointers, overflow.
    {"q", "is required", [](Request& r) { r.args.q = {}; }},
    {"k", "is required", [](Request& r) { r.args.k = {}; }},
    {"v", "is required", [](Request& r) { r.args.v = {}; }},
    {"out", "is required", [](Request& r) { r.args.out = {}; }},
    {"q", "[batch, len, heads, dim]",
     [](Request& r) {
       r.args.q = r.table({5, 4, 64});
     }},
    {"k", "4 dimensions",
     [](Request& r) {
       r.args.k = r.table({7, 2, 64});
     }},
    {"q", "stride 64",
     [](Request& r) {
       r.args.q.strides = {1280, 256, 1, 64};
     }},
    {"k", "last dimension must be contiguous, got stride 2",
     [](Request& r) { r.args.k.strides[3] = 2; }},
    {"out", "contiguous", [](Request& r) { r.args.out.strides[3] = 3; }},
    {"q", "null pointer", [](Request& r) { r.args.q.data = nullptr; }},
    {"v", "null pointer", [](Request& r) { r.args.v.data = nullptr; }},
    {"out", "null pointer", [](Request& r) { r.args.out.data = nullptr; }},
    {"q", "aligned to 4 bytes",
     [](Request& r) { r.args.q.data = static_cast<std::byte*>(r.args.q.data) + 1; }},
    {"k", "aligned",
     [](Request& r) { r.args.k.data = static_cast<std::byte*>(r.args.k.data) + 2; }},
    {"q", "overflow", [](Request& r) { r.args.q.strides[0] = kHuge; }},
    {"out", "overflow", [](Request& r) { r.args.out.strides[1] = kHuge; }},
    {"k", "must not be negative", [](Request& r) { r.args.k.strides[1] = -128; }},
    {"q", "negative size", [](Request& r) { r.args.q.shape[1] = -5; }},
    {"out", "stride 0", [](Request& r) { r.args.out.strides[0] = 0; }},
    {"k", "must be on cpu",
     [](Request& r) {
       r.args.k.device = {DeviceType::cuda, 0};
     }},
    {"out", "must be on cpu",
     [](Request& r) {
       r.args.out.device = {DeviceType::cuda, 1};
     }},
    {"q", "dtype must be", [](Request& r) { r.args.q.dtype = Dtype::i32; }},
    {"k", "must be f32, as q's", [](Request& r) { r.args.k.dtype = Dtype::bf16; }},
    {"v", "must be f32, as q's, or e4m3", [](Request& r) { r.args.v.dtype = Dtype::f16; }},
    {"out", "dtype must be", [](Request& r) { r.args.out.dtype = Dtype::i8; }},
    // How q, k, v and out fit together.
    {"q", "at least one head", [](Request& r) { r.args.q.shape[2] = 0; }},
    {"q", "multiple of 16", [](Request& r) { r.args.q.shape[3] = 40; }},
    {"q", "got 528", [](Request& r) { r.args.q.shape[3] = 528; }},
    {"v", "multiple of 16", [](Request& r) { r.args.v.shape[3] = 8; }},
    {"k", "head size must be 64", [](Request& r) { r.args.k.shape[3] = 48; }},
    {"k", "batch must be 2", [](Request& r) { r.args.k.shape[0] = 1; }},
    {"k", "must divide q's 4 heads, got 3",
     [](Request& r) {
       r.args.k = r.args.v = r.table({2, 7, 3, 64});
     }},
    {"k", "must divide", [](Request& r) { r.args.k.shape[2] = r.args.v.shape[2] = 0; }},
    {"v", "dimension 1 must be 7", [](Request& r) { r.args.v.shape[1] = 6; }},
    {"v", "dimension 2 must be 2", [](Request& r) { r.args.v.shape[2] = 1; }},
    {"out", "[2, 5, 4, 64]", [](Request& r) { r.args.out.shape[1] = 4; }},
    {"out", "[2, 5, 4, 64]",
     [](Request& r) {
       r.args.out = r.table({5, 4, 64});
     }},
    {"lse", "[batch, heads_q, len_q] = [2, 4, 5]", [](Request& r) { r.args.lse.shape[2] = 4; }},
    {"lse", "dtype must be f32", [](Request& r) { r.args.lse.dtype = Dtype::bf16; }},
    // Scales.
    {"descale.q", "is for 8-bit data",
     [](Request& r) { r.args.descale.q = Scale::per_tensor(r.table({1})); }},
    {"descale.q", "required for INT8", [](Request& r) { r.quantize_all(Dtype::i8); }},
    {"descale.k", "required for INT8",
     [](Request& r) {
       r.quantize_all(Dtype::i8);
       r.args.descale.q = Scale::per_tensor(r.table({1}));
     }},
    {"descale.k", "one element",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.k = Scale::per_tensor(r.table({2}));
     }},
    {"descale.v", "[batch, heads] = [2, 2]",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.v = Scale::per_head(r.table({2, 4}));
     }},
    {"descale.q", "[batch, heads_kv] = [2, 2]",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.q = Scale::per_kv_head(r.table({2, 3}));
     }},
    {"descale.k", "[batch, len, heads] = [2, 7, 2]",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.k = Scale::per_token(r.table({2, 5, 2}));
     }},
    {"descale.k", "ceil(len / block)] = [2, 2, 3]",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.k = Scale::per_block(r.table({2, 2, 2}), 3);
     }},
    {"descale.k", "at least 1",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.k = Scale::per_block(r.table({2, 2, 2}), 0);
     }},
    {"descale.k", "dtype must be f32",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.descale.k = Scale::per_head(r.int_table({2, 2}));
     }},
    // Scores.
    {"scale", "finite", [](Request& r) { r.args.scale = kNan; }},
    {"softcap", "positive", [](Request& r) { r.args.softcap = -1.0f; }},
    {"softcap", "positive", [](Request& r) { r.args.softcap = kNan; }},
    {"mask.left", "-1 (unbounded)", [](Request& r) { r.args.mask.left = -2; }},
    {"mask.right", "got -7", [](Request& r) { r.args.mask.right = -7; }},
    {"mask.dense", "[2 or 1, 4 or 1, 5, 7]",
     [](Request& r) {
       r.args.mask.dense = r.table({2, 1, 5, 8});
     }},
    {"mask.dense", "[2 or 1, 4 or 1, 5, 7]",
     [](Request& r) {
       r.args.mask.dense = r.table({1, 2, 5, 7});
     }},
    {"mask.dense", "4 dimensions",
     [](Request& r) {
       r.args.mask.dense = r.table({5, 7});
     }},
    {"mask.dense", "dtype must be",
     [](Request& r) {
       r.args.mask.dense = r.int_table({1, 1, 5, 7});
     }},
    {"sinks", "[heads_q] = [4]", [](Request& r) { r.args.sinks = r.table({2}); }},
    {"sinks", "dtype must be f32", [](Request& r) { r.args.sinks = r.int_table({4}); }},
    {"num_splits", "negative", [](Request& r) { r.args.num_splits = -1; }},
    {"dropout_p", "[0, 1)", [](Request& r) { r.args.dropout_p = 1.5f; }},
    {"alibi_slopes", "[heads_q]", [](Request& r) { r.args.alibi_slopes = r.table({3}); }},
    // Smoothing.
    {"smoothing.k_mean", "[2, 2, 64]",
     [](Request& r) {
       r.args.smoothing.k_mean = r.table({2, 4, 64});
     }},
    {"smoothing.v_mean", "[2, 2, 64]",
     [](Request& r) {
       r.args.smoothing.v_mean = r.table({2, 64});
     }},
    {"smoothing.row_bias", "[2, 4, 5]",
     [](Request& r) {
       r.args.smoothing.row_bias = r.table({2, 4, 7});
     }},
    {"smoothing.key_bias", "[2, 4, 7]",
     [](Request& r) {
       r.args.smoothing.key_bias = r.table({2, 2, 7});
     }},
    {"v_lo", "second term of an e4m3 v",
     [](Request& r) {
       r.args.v_lo = r.codes(Dtype::e4m3, {2, 7, 2, 64});
     }},
    {"v_lo", "shape must be v's",
     [](Request& r) {
       r.quantize_all(Dtype::e4m3);
       r.args.v_lo = r.codes(Dtype::e4m3, {2, 7, 2, 32});
     }},
    // Ragged batches: shapes and contents.
    {"seq.cu_seqlens_q", "1 dimensions",
     [](Request& r) {
       r.pack_all();
       r.args.seq.cu_seqlens_q = r.int_table({1, 3});
     }},
    {"q", "must be packed", [](Request& r) { r.args.seq.cu_seqlens_q = r.offsets; }},
    {"seq.cu_seqlens_k", "[batch + 1]",
     [](Request& r) {
       r.pack_all();
       r.args.seq.cu_seqlens_k = r.int_table({4});
     }},
    {"seq.cu_seqlens_q", "dtype must be i32",
     [](Request& r) {
       r.pack_all();
       r.args.seq.cu_seqlens_q = r.table({3});
     }},
    {"seq.cu_seqlens_q", "must not decrease",
     [](Request& r) {
       r.pack_all();
       r.offsets = HostTensor::ints({0, 4, 2});
       r.args.seq.cu_seqlens_q = r.args.seq.cu_seqlens_k = r.offsets;
     }},
    {"seq.cu_seqlens_q", "must not pass the 5 packed tokens",
     [](Request& r) {
       r.pack_all();
       r.offsets = HostTensor::ints({0, 2, 6});
       r.args.seq.cu_seqlens_q = r.offsets;
     }},
    {"seq.cu_seqlens_k", "start at 0 or above",
     [](Request& r) {
       r.pack_all();
       r.lengths = HostTensor::ints({-1, 2, 5});
       r.args.seq.cu_seqlens_k = r.lengths;
     }},
    {"seq.max_len_q", "announced",
     [](Request& r) {
       r.pack_all();
       r.args.seq.max_len_q = 2;
     }},
    {"seq.max_len_k", "negative",
     [](Request& r) {
       r.pack_all();
       r.args.seq.max_len_k = -2;
     }},
    {"seq.seqused_q", "[0, 5], got 6",
     [](Request& r) {
       r.lengths = HostTensor::ints({5, 6});
       r.args.seq.seqused_q = r.lengths;
     }},
    {"seq.seqused_k", "[0, 7], got -1",
     [](Request& r) {
       r.lengths = HostTensor::ints({-1, 6});
       r.args.seq.seqused_k = r.lengths;
     }},
    {"seq.seqused_k", "[batch] = [2]", [](Request& r) { r.args.seq.seqused_k = r.int_table({3}); }},
    {"descale.k.cu_blocks", "is required",
     [](Request& r) {
       r.pack_all();
       r.args.q = r.codes(Dtype::e4m3, {5, 4, 16});
       r.args.k = r.args.v = r.codes(Dtype::e4m3, {5, 2, 16});
       r.args.descale.k = Scale::per_block(r.table({2, 3}), 2);
     }},
    {"descale.k.cu_blocks", "needs 2 blocks",
     [](Request& r) {
       r.pack_all();
       r.args.q = r.codes(Dtype::e4m3, {5, 4, 16});
       r.args.k = r.args.v = r.codes(Dtype::e4m3, {5, 2, 16});
       r.lengths = HostTensor::ints({0, 1, 2});
       r.args.descale.k = Scale::per_block(r.table({2, 3}), 2, r.lengths);
     }},
    // Caches.
    {"cache.page_table", "must lie in [0, 4), got 4",
     [](Request& r) {
       r.page_all();
       r.ints.set(0, 0);
       static_cast<std::int32_t*>(r.ints.view().data)[2] = 4;
     }},
    {"cache.page_table", "got -3",
     [](Request& r) {
       r.page_all();
       static_cast<std::int32_t*>(r.ints.view().data)[0] = -3;
     }},
    {"seq.seqused_k", "[0, 6], got 7",
     [](Request& r) {
       r.page_all();
       r.lengths = HostTensor::ints({7, 1});
       r.args.seq.seqused_k = r.lengths;
     }},
    {"cache.page_table", "[batch, pages per sequence]",
     [](Request& r) {
       r.page_all();
       r.args.cache.page_table = r.int_table({3, 2});
     }},
    {"cache.page_table", "dtype must be i32",
     [](Request& r) {
       r.page_all();
       r.args.cache.page_table = r.table({2, 2});
     }},
    {"k", "page size must be at least 1",
     [](Request& r) {
       r.page_all();
       r.args.k.shape[1] = r.args.v.shape[1] = 0;
     }},
    {"cache.page_table", "cannot be combined",
     [](Request& r) {
       r.page_all();
       r.args.cache.batch_idx = r.lengths;
     }},
    {"cache.batch_idx", "the cache's rows, got 3",
     [](Request& r) { r.args.cache.batch_idx = r.lengths; }},
    {"cache.batch_idx", "[batch]", [](Request& r) { r.args.cache.batch_idx = r.int_table({3}); }},
    // Quantised outputs.
    {"output", "got neither", [](Request& r) { r.args.out.dtype = Dtype::e4m3; }},
    {"output", "got both",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output = {.scale = r.table({1}), .group_scale = r.table({10, 4})};
     }},
    {"output.scale", "is for an out of e4m3",
     [](Request& r) { r.args.output.scale = r.table({1}); }},
    {"output.group_scale", "is for an out of e4m3",
     [](Request& r) {
       r.args.output.group_scale = r.table({10, 4});
     }},
    {"output.scale", "[1]",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.scale = r.table({2});
     }},
    {"output.scale", "dtype must be f32",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.scale = r.int_table({1});
     }},
    {"output.scale", "must be on cpu",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.scale = r.table({1});
       r.args.output.scale.device = {DeviceType::cuda, 0};
     }},
    {"output.scale", "positive",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.floats.set(0, 0.0f);
       r.args.output.scale = r.table({1});
     }},
    {"output.scale", "finite",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.floats.set(0, kNan);
       r.args.output.scale = r.table({1});
     }},
    {"output.group_scale", "would cross heads of size 64",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.group_scale = r.table({10, 2});
     }},
    {"output.group_scale", "groups of 64 or 128",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.group_scale = r.table({10, 8});
     }},
    {"output.group_scale", "[tokens, heads_q * dim_v / group] = [10, 4]",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.group_scale = r.table({5, 4});
     }},
    {"output.group_scale", "dtype must be f32 or ue8m0",
     [](Request& r) {
       r.args.out.dtype = Dtype::e4m3;
       r.args.output.group_scale = r.int_table({10, 4});
     }},
    {"output.scale", "is required",
     [](Request& r) {
       r.args.out = Tensor(r.out.view().data, Dtype::e2m1x2, {2, 5, 4, 32});
       r.args.output.group_scale = r.codes(Dtype::e4m3, {128, 16});
     }},
    {"output.group_scale", "is required",
     [](Request& r) {
       r.args.out = Tensor(r.out.view().data, Dtype::e2m1x2, {2, 5, 4, 32});
       r.args.output.scale = r.table({1});
     }},
    {"output.group_scale", "[128, 16]",
     [](Request& r) {
       r.args.out = Tensor(r.out.view().data, Dtype::e2m1x2, {2, 5, 4, 32});
       r.args.output = {.scale = r.table({1}), .group_scale = r.codes(Dtype::e4m3, {10, 16})};
     }},
    {"output.group_scale", "contiguous",
     [](Request& r) {
       r.args.out = Tensor(r.out.view().data, Dtype::e2m1x2, {2, 5, 4, 32});
       r.args.output = {.scale = r.table({1}), .group_scale = r.codes(Dtype::e4m3, {128, 16})};
       r.args.output.group_scale.strides = {20, 1};
     }},
    {"out", "dim_v / 2",
     [](Request& r) {
       r.args.out = Tensor(r.out.view().data, Dtype::e2m1x2, {2, 5, 4, 64});
     }},
    {"backend", "known: cpu, reference", [](Request& r) { r.args.backend = "gpu9000"; }},
};

TEST_P(SpoiledRequest, NamesTheArgumentAndWritesNothing) {
  Request r;
  GetParam().spoil(r);
  expect_invalid(r.out, GetParam().argument, GetParam().words, [&] { attention(r.args); });
}

INSTANTIATE_TEST_SUITE_P(, SpoiledRequest, testing::ValuesIn(kSpoiled), [](const auto& test) {
  std::string name = std::to_string(test.index) + "_";
  for (const char* c = test.param.argument; *c; ++c) name += std::isalnum(*c) ? *c : '_';
  return name;
});

TEST(Validation, TakesTheRequestThatTheCasesSpoil) {
  Request r;
  EXPECT_NO_THROW(attention(r.args));
  Request packed;
  packed.pack_all();
  EXPECT_NO_THROW(attention(packed.args));
  Request paged;
  paged.page_all();
  EXPECT_NO_THROW(attention(paged.args));
}

// Legal, but no backend does it: the reasons say what to do instead.
TEST(Validation, RefusesDropoutAlibiAndBackwardWithAWayOut) {
  const auto expect_reason = [](const char* words, auto&& spoil) {
    Request r;
    spoil(r);
    const auto before = r.out.bytes();
    try {
      attention(r.args);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Unsupported& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("reference"), std::string::npos) << error.what();
    }
    EXPECT_TRUE(r.out.bytes() == before);
  };
  expect_reason("dropout_p = 0", [](Request& r) { r.args.dropout_p = 0.1f; });
  expect_reason("mask.dense", [](Request& r) { r.args.alibi_slopes = r.table({4}); });
  expect_reason("backward", [](Request& r) { r.args.needs_backward = true; });
}

TEST(Validation, PlanRefusesARequestThatDoesNotFit) {
  Request r;
  const AttentionPlan plan(r.args);
  Request other;
  other.args.mask = Mask::causal();
  expect_invalid(other.out, "args", "mask_right was -1 in the plan, is 0",
                 [&] { plan.run(other.args, {}); });
  Request softcap;
  softcap.args.softcap = 20.0f;
  expect_invalid(softcap.out, "args", "softcap was 0", [&] { plan.run(softcap.args, {}); });
}

TEST(Validation, PlanRefusesAWorkspaceTooSmallOrCrooked) {
  Request r;
  r.args.backend = "cpu";
  const SdpaPlan plan(r.args, {});
  ASSERT_GT(plan.workspace_size(), 0u);
  std::vector<std::byte> memory(plan.workspace_size() + 128);
  std::byte* aligned = memory.data();
  while (reinterpret_cast<std::uintptr_t>(aligned) % 64 != 0) ++aligned;
  expect_invalid(r.out, "workspace", "bytes", [&] {
    plan.run(r.args, {}, {aligned, plan.workspace_size() - 1});
  });
  expect_invalid(r.out, "workspace", "aligned to 64", [&] {
    plan.run(r.args, {}, {aligned + 4, plan.workspace_size()});
  });
  expect_invalid(r.out, "workspace", "null", [&] {
    plan.run(r.args, {}, {static_cast<std::byte*>(nullptr), plan.workspace_size()});
  });
  EXPECT_NO_THROW(plan.run(r.args, {}, {aligned, plan.workspace_size()}));
}

TEST(Validation, Sdpa) {
  const auto expect = [](const char* argument, const char* words, auto&& spoil) {
    Request r;
    SdpaOptions options;
    spoil(r, options);
    expect_invalid(r.out, argument, words, [&] { sdpa(r.args, options); });
  };
  expect("q", "attention() takes quantised tensors",
         [](Request& r, SdpaOptions&) { r.quantize_all(Dtype::e4m3); });
  expect("smoothing", "recipe fills it in", [](Request& r, SdpaOptions&) {
    r.args.smoothing.k_mean = r.table({2, 2, 64});
  });
  expect("hadamard_v", "recipe", [](Request& r, SdpaOptions&) { r.args.hadamard_v = true; });
  expect("cache.page_table", "append_kv()", [](Request& r, SdpaOptions&) { r.page_all(); });
  expect("positions_k", "needs rope", [](Request& r, SdpaOptions& o) {
    o.positions_k = r.int_table({1, 7});
  });
  const auto rope = [](Request& r, SdpaOptions& o) {
    o.rope = {.cos = r.table({8, 32}), .sin = r.table({8, 32})};
  };
  expect("rope.sin", "is required", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    o.rope.sin = {};
  });
  expect("rope.cos", "[positions, 32] or [positions, 64]", [&](Request& r, SdpaOptions& o) {
    o.rope = {.cos = r.table({8, 16}), .sin = r.table({8, 16})};
  });
  expect("rope.sin", "[8, 32]", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    o.rope.sin = r.table({7, 32});
  });
  expect("rope.rotary_dim", "even", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    o.rope.rotary_dim = 33;
  });
  expect("rope.rotary_dim", "head size 64", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    o.rope.rotary_dim = 128;
  });
  expect("rope.cos", "7 positions", [&](Request& r, SdpaOptions& o) {
    o.rope = {.cos = r.table({6, 32}), .sin = r.table({6, 32})};
  });
  expect("rope.cos", "at least one row", [&](Request& r, SdpaOptions& o) {
    o.rope = {.cos = r.table({0, 32}), .sin = r.table({0, 32})};
    r.args.k.shape[1] = r.args.v.shape[1] = 0;
    r.args.mask = Mask::causal_bottom_right();
  });
  expect("rope.positions", "[0, 8), the rows of rope.cos, got 8", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    static_cast<std::int32_t*>(r.ints.view().data)[3] = 8;
    o.rope.positions = r.int_table({1, 5});
    o.positions_k = r.int_table({1, 7});
  });
  expect("rope.positions", "[batch or 1, len]", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    o.rope.positions = r.int_table({1, 4});
  });
  // Bottom right, more queries than keys, and the first queries see keys: where would they stand?
  expect("rope.positions", "negative", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    r.args.k.shape[1] = r.args.v.shape[1] = 3;
    r.args.mask = Mask::window(-1, 4);
  });
}

TEST(Validation, Quantize) {
  const auto expect = [](const char* argument, const char* words, auto&& spoil) {
    HostTensor x(Dtype::f32, {2, 5, 4, 64}), out(Dtype::e4m3, {2, 5, 4, 64});
    Request r;
    QuantizeArgs args{.x = x, .out = out, .descale = Scale::per_head(r.table({2, 4}))};
    spoil(r, args);
    expect_invalid(out, argument, words, [&] { quantize(args); });
  };
  expect("x", "is required", [](Request&, QuantizeArgs& a) { a.x = {}; });
  expect("x", "dtype must be", [](Request&, QuantizeArgs& a) { a.x.dtype = Dtype::i8; });
  expect("x", "contiguous", [](Request&, QuantizeArgs& a) { a.x.strides[3] = 2; });
  expect("out", "is required", [](Request&, QuantizeArgs& a) { a.out = {}; });
  expect("out", "shape must be x's", [](Request&, QuantizeArgs& a) { a.out.shape[1] = 4; });
  expect("out", "stride 0", [](Request&, QuantizeArgs& a) { a.out.strides[1] = 0; });
  expect("descale", "is required", [](Request&, QuantizeArgs& a) { a.descale = {}; });
  expect("descale", "is for an 8-bit out", [](Request& r, QuantizeArgs& a) {
    a.out = r.table({2, 5, 4, 64});
  });
  expect("descale", "[2, 4]", [](Request& r, QuantizeArgs& a) {
    a.descale = Scale::per_head(r.table({2, 2}));
  });
  expect("descale", "must divide x's 4 heads", [](Request& r, QuantizeArgs& a) {
    a.descale = Scale::per_kv_head(r.table({2, 3}));
  });
  expect("descale", "stride 0", [](Request&, QuantizeArgs& a) { a.descale.values.strides[1] = 0; });
  expect("out", "dtype must be e4m3", [](Request& r, QuantizeArgs& a) {
    a.out.dtype = Dtype::i8;
    a.out_lo = r.codes(Dtype::e4m3, {2, 5, 4, 64});
  });
  expect("mean", "[2, 4, 64]", [](Request& r, QuantizeArgs& a) { a.mean = r.table({2, 64}); });
  expect("dot", "is required", [](Request& r, QuantizeArgs& a) {
    a.dot_with = r.table({2, 4, 64});
  });
  expect("dot_with", "be a multiple", [](Request& r, QuantizeArgs& a) {
    a.dot_with = r.table({2, 3, 64});
    a.dot = r.table({2, 4, 5});
  });
  expect("dot", "[2, 8, 5]", [](Request& r, QuantizeArgs& a) {
    a.dot_with = r.table({2, 8, 64});
    a.dot = r.table({2, 4, 5});
  });
  expect("seqused", "[0, 5], got 6", [](Request& r, QuantizeArgs& a) {
    r.lengths = HostTensor::ints({6, 1});
    a.seqused = r.lengths;
  });
  expect("x", "must be packed", [](Request& r, QuantizeArgs& a) { a.cu_seqlens = r.offsets; });
  expect("backend", "known:", [](Request&, QuantizeArgs& a) { a.backend = "none"; });
}

TEST(Validation, ChannelMean) {
  const auto expect = [](const char* argument, const char* words, auto&& spoil) {
    HostTensor x(Dtype::f32, {2, 5, 4, 64}), mean(Dtype::f32, {2, 4, 64});
    Request r;
    ChannelMeanArgs args{.x = x, .mean = mean};
    spoil(r, args);
    expect_invalid(mean, argument, words, [&] { channel_mean(args); });
  };
  expect("mean", "is required", [](Request&, ChannelMeanArgs& a) { a.mean = {}; });
  expect("mean", "[2, 4, 64]", [](Request&, ChannelMeanArgs& a) { a.mean.shape[1] = 2; });
  expect("max_tokens", "negative", [](Request&, ChannelMeanArgs& a) { a.max_tokens = -1; });
  expect("descale", "is for an 8-bit x", [](Request& r, ChannelMeanArgs& a) {
    a.descale = Scale::per_head(r.table({2, 4}));
  });
  expect("descale", "required for INT8", [](Request& r, ChannelMeanArgs& a) {
    a.x = r.codes(Dtype::i8, {2, 5, 4, 64});
  });
}

TEST(Validation, AppendKv) {
  const auto expect = [](const char* argument, const char* words, auto&& spoil) {
    HostTensor k(Dtype::f32, {2, 3, 2, 64}), cache(Dtype::f32, {2, 8, 2, 64});
    HostTensor seqlens = HostTensor::ints({5, 0});
    Request r;
    AppendKvArgs args{.k = k, .v = k, .k_cache = cache, .v_cache = cache, .cache_seqlens = seqlens};
    spoil(r, args);
    expect_invalid(cache, argument, words, [&] { append_kv(args); });
  };
  expect("cache_seqlens", "sequence 0 has 6 tokens", [](Request& r, AppendKvArgs& a) {
    r.lengths = HostTensor::ints({6, 0});
    a.cache_seqlens = r.lengths;
  });
  expect("cache_seqlens", "sequence 1 has -1", [](Request& r, AppendKvArgs& a) {
    r.lengths = HostTensor::ints({0, -1});
    a.cache_seqlens = r.lengths;
  });
  expect("cache_seqlens", "is required", [](Request&, AppendKvArgs& a) { a.cache_seqlens = {}; });
  expect("k", "dtype must be", [](Request&, AppendKvArgs& a) { a.k.dtype = Dtype::i8; });
  expect("v", "k's tokens and heads", [](Request&, AppendKvArgs& a) { a.v.shape[1] = 2; });
  expect("k_cache", "is required", [](Request&, AppendKvArgs& a) { a.k_cache = {}; });
  expect("k_cache", "[rows, capacity, 2, 64]",
         [](Request&, AppendKvArgs& a) { a.k_cache.shape[3] = 32; });
  expect("v_cache", "as k_cache's", [](Request&, AppendKvArgs& a) { a.v_cache.shape[1] = 7; });
  expect("k_cache", "a row for each of 2",
         [](Request&, AppendKvArgs& a) { a.k_cache.shape[0] = a.v_cache.shape[0] = 1; });
  expect("v_cache", "dtype must be", [](Request& r, AppendKvArgs& a) {
    a.v_cache = r.codes(Dtype::i8, {2, 8, 2, 64});
  });
  expect("k_descale", "required for INT8", [](Request& r, AppendKvArgs& a) {
    a.k_cache = r.codes(Dtype::i8, {2, 8, 2, 64});
  });
  expect("k_descale", "is for an 8-bit cache", [](Request& r, AppendKvArgs& a) {
    a.k_descale = Scale::per_head(r.table({2, 2}));
  });
  expect("k_descale", "per tensor, per head", [](Request& r, AppendKvArgs& a) {
    a.k_cache = r.codes(Dtype::e4m3, {2, 8, 2, 64});
    a.k_descale = Scale::per_block(r.table({2, 2, 2}), 4);
  });
  expect("k_descale", "[2, 8, 2]", [](Request& r, AppendKvArgs& a) {
    a.k_cache = r.codes(Dtype::e4m3, {2, 8, 2, 64});
    a.k_descale = Scale::per_token(r.table({2, 3, 2}));
  });
  expect("k_mean", "[2, 2, 64]", [](Request& r, AppendKvArgs& a) { a.k_mean = r.table({2, 64}); });
  expect("batch_idx", "the cache's rows, got 2", [](Request& r, AppendKvArgs& a) {
    r.lengths = HostTensor::ints({0, 2});
    a.batch_idx = r.lengths;
  });
  expect("page_table", "got 9", [](Request& r, AppendKvArgs& a) {
    static_cast<std::int32_t*>(r.ints.view().data)[0] = 9;
    a.page_table = r.int_table({2, 1});
  });
  expect("page_table", "cannot be combined", [](Request& r, AppendKvArgs& a) {
    a.page_table = r.int_table({2, 1});
    a.batch_idx = r.lengths;
  });
  expect("rope.cos", "8 positions", [](Request& r, AppendKvArgs& a) {
    a.rope = {.cos = r.table({7, 32}), .sin = r.table({7, 32})};
  });
}

TEST(Validation, MergeStates) {
  const auto expect = [](const char* argument, const char* words, auto&& spoil) {
    HostTensor part(Dtype::f32, {2, 5, 4, 64}), lse(Dtype::f32, {2, 4, 5}), out = part;
    Request r;
    MergeArgs args{.states = {{part, lse}, {part, lse}}, .out = out};
    spoil(r, args);
    expect_invalid(out, argument, words, [&] { merge_states(args); });
  };
  expect("states", "at least one", [](Request&, MergeArgs& a) { a.states.clear(); });
  expect("states[1].lse", "is required", [](Request&, MergeArgs& a) { a.states[1].lse = {}; });
  expect("states[1].out", "shape must be that of states[0].out",
         [](Request&, MergeArgs& a) { a.states[1].out.shape[1] = 4; });
  expect("states[0].out", "dtype must be",
         [](Request&, MergeArgs& a) { a.states[0].out.dtype = Dtype::e4m3; });
  expect("states[0].lse", "[2, 4, 5]",
         [](Request&, MergeArgs& a) { a.states[0].lse.shape[2] = 6; });
  expect("out", "[2, 5, 4, 64]", [](Request&, MergeArgs& a) { a.out.shape[2] = 2; });
  expect("lse", "[2, 4, 5]", [](Request& r, MergeArgs& a) { a.lse = r.table({2, 5}); });
  expect("output", "neither", [](Request&, MergeArgs& a) { a.out.dtype = Dtype::e4m3; });
}

TEST(Validation, Tensor) {
  float x = 0;
  EXPECT_THROW(Tensor(&x, {1, 1, 1, 1, 1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, {-1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, Dtype::f32, {2, 2}, {1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, {kHuge, kHuge}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, {1, 1}).transposed(0, 2), InvalidArgument);
}

}  // namespace
}  // namespace sotto

// What attention() refuses, with which words, and that nothing is written before.
#include <gtest/gtest.h>

#include <functional>

#include "spoiled_request.h"

namespace sotto {
namespace {

using test::expect_invalid;
using test::HostTensor;
using test::kHuge;
using test::kNan;
using test::Request;

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
    {"lse", "= [2, 4, 5]", [](Request& r) { r.args.lse.shape[2] = 4; }},
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
    {"out", "memory of q", [](Request& r) { r.args.out.data = r.args.q.data; }},
    {"descale.k", "Scale::per_block) = [2, 7, 2]",
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
    {"backend", "cpu, reference", [](Request& r) { r.args.backend = "gpu9000"; }},
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

}  // namespace
}  // namespace sotto

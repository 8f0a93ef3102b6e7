// What plans, sdpa() and the operations around attention refuse, and that nothing is written
// before.
#include <gtest/gtest.h>

#include "spoiled_request.h"

namespace sotto {
namespace {

using test::expect_invalid;
using test::HostTensor;
using test::kHuge;
using test::Request;

TEST(OperationsValidation, PlanRefusesARequestThatDoesNotFit) {
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

// Memory of a plan, aligned as it must be.
struct PlanMemory {
  explicit PlanMemory(std::size_t bytes) : memory(bytes + 64) {
    std::byte* aligned = memory.data();
    while (reinterpret_cast<std::uintptr_t>(aligned) % 64 != 0) ++aligned;
    span = {aligned, bytes};
  }
  std::vector<std::byte> memory;
  Workspace span;
};

// max_len_k bounds a sequence, not all of them: what a plan keeps for packed keys would be too
// small.
TEST(OperationsValidation, PlanRefusesMorePackedKeysThanItWasMadeFor) {
  Request r, other;
  HostTensor more = HostTensor::ints({0, 3, 6});
  r.pack_all(), other.pack_all();
  r.args.seq.max_len_k = other.args.seq.max_len_k = 3;
  other.args.k = other.args.v = other.table({6, 2, 16});
  other.args.seq.cu_seqlens_k = more;
  const AttentionPlan plan(r.args);
  expect_invalid(other.out, "args", "total_k was 5 in the plan, is 6",
                 [&] { plan.run(other.args, {}); });
  const SdpaPlan sdpa(r.args, {});
  PlanMemory memory(sdpa.workspace_size());
  expect_invalid(other.out, "args", "total_k was 5 in the plan, is 6",
                 [&] { sdpa.run(other.args, {}, memory.span); });
}

TEST(OperationsValidation, SdpaPlanRefusesOptionsThatDoNotFit) {
  Request r;
  r.args.mask = Mask::causal_bottom_right();
  SdpaOptions options{.rope = {.cos = r.table({8, 32}), .sin = r.table({8, 32})}};
  options.rope.positions = r.int_table({1, 5});
  options.positions_k = r.int_table({1, 7});
  const SdpaPlan plan(r.args, options);
  PlanMemory memory(plan.workspace_size());
  const auto expect = [&](const char* argument, const char* words, auto&& change) {
    SdpaOptions other = options;
    change(other);
    expect_invalid(r.out, argument, words, [&] { plan.run(r.args, other, memory.span); });
  };
  expect("options.rope.positions", "were given", [](SdpaOptions& o) { o.rope.positions = {}; });
  expect("options.recipe", "was int8qk in the plan, is fp8",
         [](SdpaOptions& o) { o.recipe = Recipe::fp8(); });
  expect("options.rope", "was given", [](SdpaOptions& o) { o.rope = {}, o.positions_k = {}; });
}

TEST(OperationsValidation, LengthsThatChangeAfterQuantisingAreChecked) {
  Request r;
  r.lengths = HostTensor::ints({7, 2});
  r.args.seq.seqused_k = r.lengths;
  const SdpaPlan plan(r.args, {});
  PlanMemory memory(plan.workspace_size());
  const QuantizedQkv qkv = quantize_qkv(r.args, {}, plan, memory.span);
  static_cast<std::int32_t*>(r.args.seq.seqused_k.data)[1] = 100'000'000;
  expect_invalid(r.out, "seq.seqused_k", "[0, 7]", [&] { plan.run(qkv, memory.span); });
}

// A scale without values is no scale, whatever granularity it names.
TEST(OperationsValidation, AbsentScalesMayNameAGranularity) {
  Request r;
  r.pack_all();
  r.args.descale.k = Scale::per_block({}, 128);
  EXPECT_NO_THROW(attention(r.args));
  for (const char* backend : {"cpu", "reference"}) {
    HostTensor x(Dtype::f32, {2, 5, 4, 64}), out = x, mean(Dtype::f32, {2, 4, 64});
    const Scale absent = Scale::per_kv_head({});
    EXPECT_NO_THROW(quantize({.x = x, .out = out, .descale = absent, .backend = backend}));
    EXPECT_NO_THROW(channel_mean({.x = x, .mean = mean, .descale = absent, .backend = backend}));
    EXPECT_NO_THROW(append_kv({.k = x,
                               .v = x,
                               .k_cache = out,
                               .v_cache = HostTensor(x),
                               .cache_seqlens = HostTensor::ints({0, 0}),
                               .k_descale = absent,
                               .backend = backend}));
  }
}

TEST(OperationsValidation, PlanRefusesAWorkspaceTooSmallOrCrooked) {
  Request r;
  r.args.backend = "cpu";
  const SdpaPlan plan(r.args, {});
  ASSERT_GT(plan.workspace_size(), 0u);
  PlanMemory memory(plan.workspace_size() + 4);
  std::byte* aligned = memory.span.data();
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

TEST(OperationsValidation, Sdpa) {
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
  expect("positions_k", "rope.positions are the queries'", [&](Request& r, SdpaOptions& o) {
    rope(r, o);
    o.rope.positions = r.int_table({1, 5});
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

TEST(OperationsValidation, Quantize) {
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

TEST(OperationsValidation, ChannelMean) {
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

TEST(OperationsValidation, AppendKv) {
  const auto expect = [](const char* argument, const char* words, auto&& spoil) {
    HostTensor k(Dtype::f32, {2, 3, 2, 64}), cache(Dtype::f32, {2, 8, 2, 64}), v_cache = cache;
    HostTensor seqlens = HostTensor::ints({5, 0});
    Request r;
    AppendKvArgs args{
        .k = k, .v = k, .k_cache = cache, .v_cache = v_cache, .cache_seqlens = seqlens};
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
  expect("v_cache", "the memory of k_cache",
         [](Request&, AppendKvArgs& a) { a.v_cache = a.k_cache; });
  expect("k", "k_cache's 4 heads", [](Request&, AppendKvArgs& a) {
    a.k_cache.shape[2] = 4;
    a.k_cache.shape[3] = 32;
  });
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
  expect("batch_idx", "got row 1 twice", [](Request& r, AppendKvArgs& a) {
    r.lengths = HostTensor::ints({1, 1});
    a.batch_idx = r.lengths;
  });
  expect("page_table", "got 9", [](Request& r, AppendKvArgs& a) {
    static_cast<std::int32_t*>(r.ints.view().data)[0] = 9;
    a.page_table = r.int_table({2, 1});
  });
  expect("page_table", "got page 0 twice", [](Request& r, AppendKvArgs& a) {
    r.lengths = HostTensor::ints({0, 0});
    a.cache_seqlens = r.lengths;
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

TEST(OperationsValidation, MergeStates) {
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
  expect("out", "scale per 16", [](Request& r, MergeArgs& a) {
    for (PartialState& state : a.states) state.out.shape[3] = 24;
    a.out = r.codes(Dtype::e2m1x2, {2, 5, 4, 12});
    a.output = {.scale = r.table({1}), .group_scale = r.codes(Dtype::e4m3, {128, 8})};
  });
}

TEST(OperationsValidation, Tensor) {
  float x = 0;
  EXPECT_THROW(Tensor(&x, {1, 1, 1, 1, 1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, {-1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, Dtype::f32, {2, 2}, {1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, {kHuge, kHuge}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, {1, 1}).transposed(0, 2), InvalidArgument);
}

}  // namespace
}  // namespace sotto

// Memory runs out in every operation of the library.
#include <array>
#include <cstdlib>

#include "aligned_memory.h"
#include "exhaust.h"
#include "request.h"

namespace sotto::test {
namespace {

// A case of the table, its outputs fp32, on the backend cpu.
struct Fixture {
  explicit Fixture(const std::string& line) : c(line) {
    make_request(c, make_data(c), request);
    args = request.args;
    args.out = arena.make(Dtype::f32, {c.batch, c.len_q[0], c.heads_q, c.dim_v});
    args.lse = arena.make(Dtype::f32, {c.batch, c.heads_q, c.len_q[0]});
  }
  std::vector<float> out() const {
    const auto* values = static_cast<const float*>(args.out.data);
    return {values, values + args.out.numel()};
  }

  AttentionCase c;
  Request request;
  Arena arena;
  AttentionArgs args;
};

class ExhaustionOn : public testing::TestWithParam<std::string> {};

TEST_P(ExhaustionOn, Attention) {
  for (const char* line :
       {"b2 h4/2 q5 k40 in=bf16 causal", "b2 h4/2 q1 k300 in=bf16/e4m3/e4m3 splits2 lse sinks",
        "b2 h2 q3 k40:30 paged16 in=i8/i8/e4m3 sk=token k_mean lse v_lo"}) {
    Fixture f(line);
    f.args.backend = GetParam();
    attention(f.args);
    const auto expected = f.out();
    exhaust(f.c.line, [&] { attention(f.args); });
    EXPECT_EQ(f.out(), expected);
    const AttentionPlan plan(f.args);
    AlignedMemory workspace(plan.workspace_size());
    exhaust(f.c.line + " by a plan", [&] { plan.run(f.args, workspace.span()); });
    EXPECT_EQ(f.out(), expected);
    exhaust(f.c.line + " explained", [&] { explain(f.args).text(); });
  }
}

TEST_P(ExhaustionOn, Sdpa) {
  for (const char* recipe : {"exact", "int8qk", "high+v_mean+smooth_q+hadamard=qkv"}) {
    Fixture f("b2 h4/2 q4 k40 in=bf16 causal_br softcap20");
    f.args.backend = GetParam();
    const SdpaOptions options{.recipe = Recipe::parse(recipe)};
    sdpa(f.args, options);
    const auto expected = f.out();
    exhaust(recipe, [&] { sdpa(f.args, options); });
    EXPECT_EQ(f.out(), expected);
    exhaust(recipe, [&] { explain(f.args, options).text(); });
  }
}

TEST_P(ExhaustionOn, Transforms) {
  constexpr std::int64_t kBatch = 2, kLen = 40, kHeads = 2, kDim = 80;
  Arena arena;
  std::vector<float> values(kBatch * kLen * kHeads * kDim);
  Random random(1);
  fill_normal(values, random);
  const auto make = [&](Dtype dtype) { return arena.make(dtype, {kBatch, kLen, kHeads, kDim}); };
  const Tensor x = arena.copy(values, {kBatch, kLen, kHeads, kDim});
  const Tensor mean = arena.make(Dtype::f32, {kBatch, kHeads, kDim});
  const ChannelMeanArgs mean_args{.x = x, .mean = mean, .hadamard = true, .backend = GetParam()};
  exhaust("channel_mean", [&] { channel_mean(mean_args); });
  for (const Granularity granularity : {Granularity::token, Granularity::head}) {
    const Tensor scales = granularity == Granularity::token
                              ? arena.make(Dtype::f32, {kBatch, kLen, kHeads})
                              : arena.make(Dtype::f32, {kBatch, kHeads});
    const QuantizeArgs args{.x = x,
                            .out = make(Dtype::e4m3),
                            .out_lo = make(Dtype::e4m3),
                            .descale = scales,
                            .hadamard = true,
                            .mean = mean,
                            .backend = GetParam()};
    exhaust("quantize", [&] { quantize(args); });
  }
  const AppendKvArgs append{
      .k = x,
      .v = x,
      .k_cache = make(Dtype::e4m3),
      .v_cache = make(Dtype::bf16),
      .cache_seqlens = arena.copy(std::vector<std::int32_t>{0, 0}, {kBatch}),
      .k_descale = Scale::per_token(arena.make(Dtype::f32, {kBatch, kLen, kHeads})),
      .hadamard_k = true,
      .backend = GetParam()};
  exhaust("append_kv", [&] { append_kv(append); });
  const Tensor lse = arena.copy(std::vector<float>(kBatch * kHeads * kLen), {kBatch, kHeads, kLen});
  const MergeArgs merge{.states = {{.out = x, .lse = lse}, {.out = x, .lse = lse}},
                        .out = make(Dtype::bf16),
                        .lse = arena.make(Dtype::f32, {kBatch, kHeads, kLen}),
                        .backend = GetParam()};
  exhaust("merge_states", [&] { merge_states(merge); });
}

INSTANTIATE_TEST_SUITE_P(, ExhaustionOn, testing::Values("cpu", "reference"),
                         [](const auto& test) { return test.param; });

class Idle final : public Backend {
 public:
  std::string_view name() const override { return "a backend whose name needs memory of its own"; }
  std::string_view description() const override { return "does nothing"; }
  int priority() const override { return -100; }
  Reasons refuse(const Problem&) const override { return {"does nothing"}; }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs&, const Problem&) const override {
    return nullptr;
  }
};

TEST(Exhaustion, Registry) {
  const auto idle = std::make_shared<Idle>();
  const auto is_there = [&] { return backends::list().size() == 3; };
  exhaust("add", [&] {
    backends::add(idle);
    backends::remove(idle->name());
  });
  EXPECT_FALSE(is_there());
  backends::add(idle);
  exhaust("activate", [&] {
    backends::activate(idle->name());
    backends::restore();
  });
  exhaust("current", [&] {
    backends::current();
    backends::list();
  });
  backends::remove(idle->name());
  EXPECT_EQ(backends::current(), "");
}

TEST(Exhaustion, Errors) {
  Fixture f("b2 h4/2 q9 k70 in=bf16");
  f.args.k.strides[3] = 7;
  const auto must_throw = [&](const auto& call) {
    try {
      call();
    } catch (const Error&) {
    }
  };
  exhaust("InvalidArgument", [&] { must_throw([&] { attention(f.args); }); });
  f.args.k.strides[3] = 1;
  f.args.dropout_p = 0.5f;
  exhaust("Unsupported", [&] { must_throw([&] { attention(f.args); }); });
  exhaust("recipe", [&] { must_throw([&] { Recipe::parse("int8qk+nothing"); }); });
  exhaust("recipe", [&] { to_string(Recipe::parse("int8qk+v_mean+hadamard=qkv")); });
}

TEST(Exhaustion, Logging) {
  Fixture f("b1 h2 q3 k9 in=f32");
  setenv("SOTTO_LOG", "debug", 1);
  std::size_t logged = 0;
  exhaust("log", [&] {
    // Too large for std::function's own room.
    set_log_callback([&, padding = std::array<char, 64>{}](LogLevel, std::string_view text) {
      logged += text.size() + static_cast<std::size_t>(padding[0]);
    });
    attention(f.args);
  });
  set_log_callback({});
  unsetenv("SOTTO_LOG");
  EXPECT_GT(logged, 0u);
}

}  // namespace
}  // namespace sotto::test

// What no input and no way of running may do to a result.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>

#include "properties.h"
#include "random_cases.h"

namespace sotto::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Robustness : public OnEveryBackend {
 protected:
  // Runs a request of host tensors if the backend takes it.
  bool attends(AttentionArgs args) {
    args.backend = GetParam();
    Mirror mirror(GetParam());
    args = mirror.place(args);
    if (!takes_request(args)) return false;
    attention(args);
    mirror.read_back();
    return true;
  }
};

TEST_P(Robustness, SameBitsOnEveryRunWithAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const char* line :
       {"b3 h4/2 q70 k300 lse in=f32 causal", "b3 h4/2 q1 k900 lse in=bf16 splits4",
        "b3 h4/1 q2 k700 lse in=e4m3", "b2 h4/2 q70 k200 lse in=bf16 sdpa=int8qk causal",
        "b2 h4/2 q300 k300 lse in=bf16 causal", "b2 h4/2 q300 k300 lse in=e4m3 causal",
        "b2 h4/2 q300 k300 lse in=bf16 sdpa=fp8 causal",
        "b2 h4/2 q70 k200 lse in=bf16 sdpa=high+v_mean+smooth_q",
        "h1 q1024 k1024 in=bf16/e4m3/e4m3 sv=block64 causal"}) {
    if (!takes(AttentionCase(line))) continue;
    const Rows first = attend(line);
    for (int n : {1, 2, 3, 16}) {
      omp_set_num_threads(n);
      const Rows again = attend(line);
      EXPECT_EQ(first.o, again.o) << line;
      EXPECT_EQ(first.lse, again.lse) << line;
    }
    omp_set_num_threads(threads);
  }
}

TEST_P(Robustness, SameBitsWhateverTheWorkspaceHeld) {
  for (const std::string& line : random_cases(9000, 200)) {
    const AttentionCase c(line);
    if (!takes(c)) continue;
    Request request;
    make_request(c, make_data(c), request);
    const Rows first = joined(run_plain(c, request, GetParam()));
    for (int garbage : {0x00, 0x3f, 0x7f}) {
      const Rows again = joined(run_plain(c, request, GetParam(), garbage));
      ASSERT_EQ(first.o, again.o) << line;
      ASSERT_EQ(first.lse, again.lse) << line;
    }
  }
}

class NotANumber : public Robustness {
 protected:
  // Inf may end as NaN or, where it saturates, as a number.
  void test_query(const AttentionCase& c, float bad) const {
    Data data = make_data(c);
    const Rows clean = attend(c, data);
    const std::int64_t query = c.len_q[0] - 1, head = 2;
    data.sequences[0].q.at(query, head)[3] = bad;
    const Rows dirty = attend(c, data);
    const auto fits = [&](double x) { return std::isnan(x) || !std::isnan(bad); };
    for (std::size_t n = 0; n < clean.o.size(); ++n) {
      const auto row = static_cast<std::int64_t>(n) / c.dim_v;
      if (row == query * c.heads_q + head) {
        ASSERT_TRUE(fits(dirty.o[n])) << c.line << ": " << bad << " became " << dirty.o[n];
      } else {
        ASSERT_EQ(dirty.o[n], clean.o[n]) << c.line << ", row " << row;
      }
    }
    for (std::size_t n = 0; n < clean.lse.size(); ++n) {
      if (static_cast<std::int64_t>(n) == head * c.len_q[0] + query) {
        ASSERT_TRUE(fits(dirty.lse[n])) << c.line << ": " << bad << " became " << dirty.lse[n];
      } else {
        ASSERT_EQ(dirty.lse[n], clean.lse[n]) << c.line;
      }
    }
  }

  // NaN in k or v of a key that some queries do not see: for these it might as well be 0.
  void test_key(const AttentionCase& c, Tokens SequenceData::*tensor, std::int64_t key) const {
    Data data = make_data(c);
    const std::int64_t len_q = c.len_q[0], len_k = c.len_k[0], of_query = c.heads_q * c.dim_v;
    const std::int64_t offset = c.mask.align == Mask::Align::bottom_right ? len_k - len_q : 0;
    Tokens& tokens = data.sequences[0].*tensor;
    std::fill_n(tokens.at(key, 0), tokens.heads * tokens.dim, 0.0f);
    const Rows clean = attend(c, data);
    std::fill_n(tokens.at(key, 0), tokens.heads * tokens.dim, kNan);
    const Rows dirty = attend(c, data);
    int seen_rows = 0;
    for (std::int64_t i = 0; i < len_q; ++i) {
      const std::int64_t distance = key - i - offset;
      const bool seen = c.dense
                            ? data.dense[static_cast<std::size_t>(i * len_k + key)] != -kInfinity
                            : (c.mask.left < 0 || distance >= -c.mask.left) &&
                                  (c.mask.right < 0 || distance <= c.mask.right);
      seen_rows += seen;
      for (std::int64_t n = i * of_query; n < (i + 1) * of_query; ++n) {
        const auto at = static_cast<std::size_t>(n);
        if (seen) {
          ASSERT_TRUE(std::isnan(dirty.o[at])) << c.line << ", query " << i;
        } else {
          ASSERT_EQ(dirty.o[at], clean.o[at]) << c.line << ", query " << i;
        }
      }
    }
    ASSERT_LT(seen_rows, len_q);
    // The other sequence does not know of it.
    for (auto n = static_cast<std::size_t>(len_q * of_query); n < clean.o.size(); ++n) {
      ASSERT_EQ(dirty.o[n], clean.o[n]) << c.line;
    }
  }
};

TEST_P(NotANumber, OfAQueryStaysInItsRow) {
  for (const char* line :
       {"b2 h4/2 q40 k90 lse in=f32", "b2 h4/2 q40 k90 lse in=bf16 causal sinks",
        "b2 h4/2 q40 k90 lse in=e4m3 sq=token",
        "b2 h4/2 q40 k90 lse in=e4m3 sq=absent sk=absent sv=absent",
        "b2 h4/2 q40 k90 in=f32 lse sdpa=fp8", "b2 h4/2 q40 k90 in=bf16 lse sdpa=fp8",
        "q3 k500 h4/1 lse in=bf16/e4m3/e4m3 splits3"}) {
    const AttentionCase c(line);
    if (!takes(c)) continue;
    for (const double bad : {static_cast<double>(kNan), kInfinity, -kInfinity}) {
      test_query(c, static_cast<float>(bad));
    }
  }
}

TEST_P(NotANumber, OfAHiddenKeyDoesNotLeak) {
  for (const char* in :
       {"f32", "bf16", "e4m3 sk=token sv=token", "e4m3 sq=absent sk=absent sv=absent"}) {
    for (const char* mask : {"causal", "window=10/5", "dense=bool:1:1", "dense=f32:1:1"}) {
      const AttentionCase c(fmt::format("b2 h4/2 q40 k90 lse in={} {}", in, mask));
      if (!takes(c)) continue;
      for (const auto tensor : {&SequenceData::k, &SequenceData::v}) {
        SCOPED_TRACE(tensor == &SequenceData::k ? "in k" : "in v");
        test_key(c, tensor, 50);
      }
    }
  }
}

// In the layouts and recipes where V is rewritten before.
TEST_P(NotANumber, OfAHiddenKeyInVDoesNotLeak) {
  for (const char* in : {"in=bf16 sdpa=fp8", "in=bf16 sdpa=int8qk", "in=f16 sdpa=fp8-hadamard",
                         "in=bf16 sdpa=int8qk+hadamard=qkv", "in=e4m3", "in=i8/i8/e4m3"}) {
    for (const auto& [shape, key] : {std::pair("q200 k300 d128 causal_br", 255),
                                     {"q200 k300 d128 window=100/20", 130},
                                     {"q200:40 k300:90 d128 packed causal", 130},
                                     {"q200:90 k300:33 d64 padded_q padded_k causal_br", 130},
                                     {"q200:300 k300:200 d256 packed window=70/-1", 130},
                                     {"q200 k300 d192/128 band=-1/40", 130},
                                     {"q200 k300 d96 plain causal", 128}}) {
      const AttentionCase c(fmt::format("b2 h2/1 {} {}", in, shape));
      if (takes(c)) test_key(c, &SequenceData::v, key);
    }
  }
}

TEST_P(Robustness, FiniteInputNeverGivesNanOrInf) {
  for (const char* recipe : {"", "sdpa=exact", "sdpa=fp8", "sdpa=fp8-hadamard", "sdpa=int8qk",
                             "sdpa=high", "sdpa=int8qk+v_mean+smooth_q+hadamard=qkv"}) {
    for (const char* how : {"in=f32 causal softcap30", "in=f32 window=9/0 sinks",
                            "in=bf16 causal softcap30", "in=bf16 window=9/0 sinks"}) {
      const AttentionCase c(fmt::format("h2/1 q33 k140 lse {} {}", how, recipe));
      if (!takes(c)) continue;
      for (const auto& [qk_size, v_size] : std::vector<std::pair<float, float>>{{1e-44f, 1e-42f},
                                                                                {1e-30f, 1.0f},
                                                                                {1e-10f, 1e30f},
                                                                                {30.0f, 1.0f},
                                                                                {100.0f, 1e-40f},
                                                                                {1e4f, 1.0f},
                                                                                {1e10f, 1e30f},
                                                                                {1e15f, 1.0f},
                                                                                {1e25f, 1.0f}}) {
        Data data = make_data(c);
        for (SequenceData& s : data.sequences) {
          for (float& x : s.q.values) x *= qk_size;
          for (float& x : s.k.values) x *= qk_size;
          for (float& x : s.v.values) x *= v_size;
        }
        const Rows rows = attend(c, data);
        const auto finite = [](double x) { return std::isfinite(x); };
        ASSERT_TRUE(std::all_of(rows.o.begin(), rows.o.end(), finite))
            << c.line << ", Q and K of " << qk_size << ", V of " << v_size;
        ASSERT_TRUE(std::none_of(rows.lse.begin(), rows.lse.end(),
                                 [](double x) { return std::isnan(x) || x == kInfinity; }))
            << c.line << ", Q and K of " << qk_size << ", V of " << v_size;
      }
    }
  }
}

// Additive masks near the largest float are legal.
TEST_P(Robustness, HugeMaskEntriesGiveFiniteRows) {
  std::vector<float> x(6 * 16, 0.5f), out(4 * 16), lse(4), mask(4 * 6, 0.0f);
  mask[1] = 3e38f;
  mask[8] = -3e38f;
  std::fill_n(mask.begin() + 12, 6, -3.4e38f);
  if (!attends({.q = Tensor(x.data(), {1, 4, 1, 16}),
                .k = Tensor(x.data(), {1, 6, 1, 16}),
                .v = Tensor(x.data(), {1, 6, 1, 16}),
                .out = Tensor(out.data(), {1, 4, 1, 16}),
                .lse = Tensor(lse.data(), {1, 1, 4}),
                .mask = Mask::from_dense(Tensor(mask.data(), {1, 1, 4, 6}))})) {
    return;
  }
  for (const float o : out) EXPECT_NEAR(o, 0.5f, 1e-6f);
  for (const float l : lse) EXPECT_TRUE(std::isfinite(l));
}

// V's second term counts on exactly the blocks of 128 keys that VFormat::e4m3_hi_lo names: with
// equal weights, V = 1 everywhere and V_lo = 1/4 in one block, an output is 1 + that block's share
// of the visible keys / 4.
TEST_P(Robustness, SecondTermOfVCountsOnItsBlocksAlone) {
  constexpr std::int64_t kLenQ = 300, kLenK = 700;
  for (const Mask& mask : {Mask::none(), Mask::causal(), Mask::causal_bottom_right(),
                           Mask::window(200, 0), Mask::window(130, 40)}) {
    const std::int64_t offset = mask.align == Mask::Align::bottom_right ? kLenK - kLenQ : 0;
    for (std::int64_t block = 0; block * 128 < kLenK; ++block) {
      std::vector<e4m3> q(kLenQ * 16, e4m3(0.0f)), k(kLenK * 16, e4m3(0.0f)), v(kLenK * 16),
          lo(kLenK * 16);
      for (std::int64_t i = 0; i < kLenK * 16; ++i) {
        v[static_cast<std::size_t>(i)] = e4m3(1.0f);
        lo[static_cast<std::size_t>(i)] = e4m3(i / 16 / 128 == block ? 0.25f : 0.0f);
      }
      std::vector<float> out(kLenQ * 16);
      const AttentionArgs args{.q = Tensor(q.data(), {1, kLenQ, 1, 16}),
                               .k = Tensor(k.data(), {1, kLenK, 1, 16}),
                               .v = Tensor(v.data(), {1, kLenK, 1, 16}),
                               .out = Tensor(out.data(), {1, kLenQ, 1, 16}),
                               .mask = mask,
                               .v_lo = Tensor(lo.data(), {1, kLenK, 1, 16})};
      if (!attends(args)) return;
      for (std::int64_t i = 0; i < kLenQ; ++i) {
        bool two_terms = block == 0;
        // An edge of the band, of some query in this one's block of 128, lies in the key block.
        for (std::int64_t n = i / 128 * 128; n < std::min(i / 128 * 128 + 128, kLenQ); ++n) {
          const std::int64_t diagonal = n + offset;
          if (mask.right >= 0) two_terms |= (diagonal + mask.right) / 128 == block;
          if (mask.left >= 0 && diagonal >= mask.left) {
            two_terms |= (diagonal - mask.left) / 128 == block;
          }
        }
        const std::int64_t begin =
            mask.left >= 0 ? std::max<std::int64_t>(0, i + offset - mask.left) : 0;
        const std::int64_t end =
            mask.right >= 0 ? std::min(kLenK, i + offset + mask.right + 1) : kLenK;
        const std::int64_t in_block = std::max<std::int64_t>(
            0, std::min(end, block * 128 + 128) - std::max(begin, block * 128));
        const double share = static_cast<double>(in_block) / static_cast<double>(end - begin);
        ASSERT_NEAR(out[static_cast<std::size_t>(i * 16)], two_terms ? 1 + share / 4 : 1.0, 1e-5)
            << "query " << i << ", block " << block << ", window " << mask.left << "/"
            << mask.right;
      }
    }
  }
}

// A request of which each runner has outputs of its own.
class Runner {
 public:
  Runner(const AttentionCase& c, const Request& request, const std::string& backend)
      : args(request.args),
        out_(static_cast<std::size_t>(c.batch * c.len_q[0] * c.heads_q * c.dim_v)),
        mirror_(backend) {
    args.backend = backend;
    args.out = Tensor(out_.data(), {c.batch, c.len_q[0], c.heads_q, c.dim_v});
    args = mirror_.place(args);
  }

  Workspace workspace(const auto& plan) { return mirror_.workspace(plan.workspace_size()); }
  // What was written, once the backend is done.
  const std::vector<float>& result() {
    mirror_.read_back();
    return out_;
  }

  AttentionArgs args;

 private:
  std::vector<float> out_;
  Mirror mirror_;
};

TEST_P(Robustness, APlanRunsInSeveralThreadsAtOnce) {
  const AttentionCase c("b2 h4/2 q40 k200 in=bf16 causal_br");
  const Data data = make_data(c);
  Request request;
  make_request(c, data, request);
  Runner alone(c, request, GetParam());
  if (!takes_request(alone.args, SdpaOptions{})) return;
  const SdpaPlan plan(alone.args);
  plan.run(alone.args, {}, alone.workspace(plan));

  std::vector<std::unique_ptr<Runner>> runners;
  std::vector<std::thread> threads;
  for (int n = 0; n < 4; ++n) {
    runners.push_back(std::make_unique<Runner>(c, request, GetParam()));
    threads.emplace_back([&plan, &runner = *runners.back()] {
      const Workspace own = runner.workspace(plan);
      for (int again = 0; again < 3; ++again) plan.run(runner.args, {}, own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& runner : runners) EXPECT_EQ(runner->result(), alone.result());
}

TEST_P(Robustness, QuantisingAndAttendingApartIsTheSame) {
  for (const char* recipe : {"exact", "fp8", "int8qk+v_mean", "high+smooth_q"}) {
    const AttentionCase c("b2 h4/2 q40 k200 in=bf16 causal_br sinks softcap20");
    const Data data = make_data(c);
    Request request;
    make_request(c, data, request);
    Runner once(c, request, GetParam()), twice(c, request, GetParam());
    const SdpaOptions options{.recipe = Recipe::parse(recipe)};
    if (!takes_request(once.args, options)) continue;
    const SdpaPlan plan(once.args, options);
    plan.run(once.args, options, once.workspace(plan));
    const Workspace workspace = twice.workspace(plan);
    const QuantizedQkv qkv = quantize_qkv(twice.args, options, plan, workspace);
    plan.run(qkv, workspace);
    EXPECT_EQ(once.result(), twice.result()) << recipe;
  }
}

TEST_P(Robustness, APlanServesOtherLengthsAndPointers) {
  for (const char* words :
       {"paged16 in=bf16/e4m3/e4m3 sk=token sv=token", "padded_k in=bf16", "padded_k in=e4m3"}) {
    const AttentionCase c(fmt::format("b2 h4/2 q1 k70:41 {} causal_br", words));
    AttentionCase shorter(fmt::format("b2 h4/2 q1 k71:3 {} causal_br", words));
    if (shorter.padding_k > 0) --shorter.padding_k;  // the same rows
    const Data data = make_data(c), other_data = make_data(shorter);
    Request request, other;
    make_request(c, data, request);
    make_request(shorter, other_data, other);
    Runner first(c, request, GetParam()), second(shorter, other, GetParam());
    Runner expected(shorter, other, GetParam());
    if (!takes_request(first.args)) continue;
    const AttentionPlan plan(first.args);
    const Workspace workspace = first.workspace(plan);
    plan.run(first.args, workspace);
    plan.run(second.args, workspace);
    attention(expected.args);
    EXPECT_EQ(second.result(), expected.result()) << words;
  }
}

TEST_P(Robustness, ScaleOfRankTwoForQueriesIsPerHeadOrPerKvHeadByItsShape) {
  const AttentionCase c("b2 h4/2 q20 k60 in=e4m3 sq=kv_head");
  const Data data = make_data(c);
  Request request;
  make_request(c, data, request);
  Runner named(c, request, GetParam()), guessed(c, request, GetParam());
  guessed.args.descale.q = named.args.descale.q.values;
  if (!takes_request(named.args)) return;
  attention(named.args);
  attention(guessed.args);
  EXPECT_EQ(named.result(), guessed.result());
}

TEST_P(Robustness, WindowsOfAnySizeAreUnbounded) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  for (const char* in : {"f32", "bf16", "e4m3"}) {
    const AttentionCase c(fmt::format("b2 h4/2 q20 k60 in={} causal_br", in));
    const Data data = make_data(c);
    Request request;
    make_request(c, data, request);
    Runner causal(c, request, GetParam()), window(c, request, GetParam());
    window.args.mask = Mask::window(kMost, 0);
    if (!takes_request(causal.args)) continue;
    attention(causal.args);
    attention(window.args);
    EXPECT_EQ(causal.result(), window.result()) << in;
  }
}

TEST_P(Robustness, MoreSplitsThanKeysAreFine) {
  const AttentionCase c("b2 h4/2 q3 k5 in=f32 lse");
  const Data data = make_data(c);
  AttentionCase split = c;
  split.splits = 1000;
  if (!takes(split)) return;
  const Rows whole = attend(c, data), parts = attend(split, data);
  for (std::size_t n = 0; n < whole.o.size(); ++n) ASSERT_NEAR(whole.o[n], parts.o[n], 1e-6);
}

TEST_P(Robustness, EmptyBatchesDoNothing) {
  std::int32_t zero = 0;
  const auto expect_nothing = [&](AttentionArgs args) {
    args.backend = GetParam();
    Mirror mirror(GetParam());
    args = mirror.place(args);
    if (!takes_request(args)) return;
    EXPECT_NO_THROW(attention(args));
    EXPECT_NO_THROW(sdpa(args));
    EXPECT_NO_THROW(mirror.read_back());
  };
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    float nothing = 0;
    for (std::int64_t len : {0, 5}) {
      const Tensor q(&nothing, dtype, {0, len, 4, 64}), k(&nothing, dtype, {0, 7, 2, 64});
      expect_nothing({.q = q, .k = k, .v = k, .out = q});
    }
    const Tensor packed(&nothing, dtype, {0, 2, 64}), cu(&zero, {1});
    AttentionArgs args{.q = packed, .k = packed, .v = packed, .out = packed};
    args.seq.cu_seqlens_q = args.seq.cu_seqlens_k = cu;
    expect_nothing(args);
    EXPECT_EQ(nothing, 0.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(, NotANumber, testing::ValuesIn(usable_backends()), backend_name);
INSTANTIATE_TEST_SUITE_P(, Robustness, testing::ValuesIn(usable_backends()), backend_name);

}  // namespace
}  // namespace sotto::test

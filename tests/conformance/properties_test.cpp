// What must hold between results, whatever the numbers are.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "judge.h"
#include "output_reader.h"
#include "properties.h"

namespace sotto::test {
namespace {

class Properties : public OnEveryBackend {
 protected:
  bool merges() {
    std::vector<float> rows(64), lse(1);
    const PartialState state{.out = Tensor(rows.data(), {1, 1, 1, 64}),
                             .lse = Tensor(lse.data(), {1, 1, 1})};
    Mirror mirror(GetParam());
    return takes_request(
        mirror.place(MergeArgs{.states = {state}, .out = state.out, .backend = GetParam()}));
  }
};

// Two ways to the same result agree as well as the arithmetic allows.
void expect_same(const AttentionCase& c, const std::string& backend, const Rows& a, const Rows& b) {
  ASSERT_EQ(a.o.size(), b.o.size());
  ASSERT_EQ(a.lse.size(), b.lse.size());
  EXPECT_GE(sqnr_db(a.o, b.o), least_arithmetic_db(c, backend)) << c.line;
  for (std::size_t n = 0; n < a.lse.size(); ++n) {
    if (a.lse[n] == b.lse[n]) continue;
    ASSERT_NEAR(a.lse[n], b.lse[n], c.p_e4m3() ? 0.13 : 1e-4) << c.line;
  }
}

// Tokens [begin, end) of every sequence's K and V.
Data keys_between(Data data, std::int64_t begin, std::int64_t end) {
  for (SequenceData& s : data.sequences) {
    for (Tokens* tokens : {&s.k, &s.v}) {
      const std::int64_t row = tokens->heads * tokens->dim;
      tokens->values = {tokens->values.begin() + begin * row, tokens->values.begin() + end * row};
      tokens->len = end - begin;
    }
  }
  return data;
}

TEST_P(Properties, OrderOfKeysDoesNotMatter) {
  for (const char* line : {"b2 h4/2 q20 k130 lse in=f32", "b2 h4/2 q20 k130 lse in=e4m3 sinks",
                           "b2 h4/2 q20 k130 lse in=bf16 softcap20",
                           "b2 h4/2 q20 k130 lse in=i8/i8/e4m3 sk=token sv=token softcap20"}) {
    const AttentionCase c(line);
    if (!takes(c)) continue;
    Data data = make_data(c);
    const Rows before = attend(c, data);
    for (SequenceData& s : data.sequences) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(s.k.len));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), Random(7));
      for (Tokens* tokens : {&s.k, &s.v}) {
        const Tokens old = *tokens;
        for (std::int64_t t = 0; t < old.len; ++t) {
          std::copy_n(old.at(order[static_cast<std::size_t>(t)], 0), old.heads * old.dim,
                      tokens->at(t, 0));
        }
      }
    }
    expect_same(c, GetParam(), before, attend(c, data));
  }
}

// Attends to the keys in parts and merges them. What a band hides is told to the parts by a dense
// mask; sinks go to the first part.
Rows attend_in_parts(const std::string& backend, const AttentionCase& whole, const Data& data,
                     const std::vector<std::int64_t>& cuts, const AttentionCase& merged,
                     double amax, Result* merged_result) {
  std::vector<std::unique_ptr<Request>> requests;
  Arena arena;
  std::vector<PartialState> states;
  Placing placing;
  for (std::size_t part = 0; part + 1 < cuts.size(); ++part) {
    AttentionCase c = whole;
    Data slice = keys_between(data, cuts[part], cuts[part + 1]);
    for (std::int64_t& len : c.len_k) len = cuts[part + 1] - cuts[part];
    c.sinks = whole.sinks && part == 0;
    c.mask = {};
    c.dense = Dtype::boolean;
    c.dense_batch = c.dense_heads = false;
    const std::int64_t offset =
        whole.mask.align == Mask::Align::bottom_right ? whole.len_k[0] - whole.len_q[0] : 0;
    for (std::int64_t i = 0; i < c.capacity_q(); ++i) {
      for (std::int64_t j = cuts[part]; j < cuts[part + 1]; ++j) {
        const std::int64_t distance = j - i - offset;
        const bool hidden = (whole.mask.left >= 0 && distance < -whole.mask.left) ||
                            (whole.mask.right >= 0 && distance > whole.mask.right);
        slice.dense.push_back(hidden ? -std::numeric_limits<float>::infinity() : 0.0f);
      }
    }
    requests.push_back(std::make_unique<Request>());
    Request& request = *requests.back();
    make_request(c, slice, request);
    placing = request.q;
    AttentionArgs args = request.args;
    args.backend = backend;
    args.out = placing.make(arena, Dtype::f32, c.heads_q, c.dim_v);
    args.lse = placing.make_head_major(arena, c.batch, c.heads_q, placing.capacity);
    Mirror mirror(backend);
    if (c.recipe) {
      sdpa(mirror.place(args), mirror.place(request.options));
    } else {
      attention(mirror.place(args));
    }
    mirror.read_back();
    states.push_back({.out = args.out, .lse = args.lse});
  }
  OutputReader reader(merged, placing, arena, amax);
  Mirror mirror(backend);
  merge_states(mirror.place(MergeArgs{.states = states,
                                      .out = reader.out(),
                                      .lse = reader.lse(),
                                      .output = reader.output(),
                                      .backend = backend}));
  mirror.read_back();
  Result result = reader.read();
  Rows all = joined(result);
  if (merged_result != nullptr) *merged_result = std::move(result);
  return all;
}

TEST_P(Properties, KeysMayBeSplitAnywhereAndMerged) {
  if (!merges()) return;
  for (const char* line :
       {"b2 h4/2 q20 k150 lse in=f32", "b2 h4/2 q20 k150 lse in=f32 sinks softcap20",
        "b2 h4/2 q20 k150 lse in=bf16 sinks causal_br", "b2 h4/2 q20 k150 lse in=f32 window=30/4",
        "b2 h4/2 q20 k150 lse in=f32 causal",
        "b2 h4/2 q20 k150 lse in=e4m3 sk=token sv=token sinks",
        "b2 h4/2 q20 k150 lse in=f32 sdpa=int8qk sinks",
        "q20 k150 lse in=f32 sdpa=int8qk softcap20 "
        "data=k_bias",
        "q20 k150 lse in=f32 sdpa=fp8-hadamard causal_br data=k_bias"}) {
    const AttentionCase c(line);
    const Data data = make_data(c);
    const Rows whole = attend(c, data);
    for (const std::vector<std::int64_t>& cuts : std::vector<std::vector<std::int64_t>>{
             {0, 1, 150}, {0, 75, 150}, {0, 149, 150}, {0, 0, 40, 41, 130, 150}}) {
      const Rows parts = attend_in_parts(GetParam(), c, data, cuts, c, 0, nullptr);
      if (!c.recipe) {
        expect_same(c, GetParam(), whole, parts);
        continue;
      }
      // The parts are quantised, and smoothed, each by itself.
      EXPECT_GE(sqnr_db(whole.o, parts.o), 22) << line;
      for (std::size_t n = 0; n < whole.lse.size(); ++n) {
        ASSERT_NEAR(whole.lse[n], parts.lse[n], 0.3) << line;
      }
    }
  }
}

TEST_P(Properties, MergeWritesQuantisedOutputsAsAttentionDoes) {
  if (!merges()) return;
  for (const char* out : {"e4m3", "groups64", "groups64:ue8m0:col", "nvfp4", "bf16"}) {
    const AttentionCase c(fmt::format("b2 h4/2 q20 k150 lse in=f32 causal_br out={}", out));
    const Data data = make_data(c);
    std::vector<Exact> truth;
    Result exact;
    double amax = 0;
    for (std::size_t b = 0; b < data.sequences.size(); ++b) {
      truth.push_back(true_attention(c, data, b));
      exact.sequences.push_back({.o = truth.back().o, .lse = truth.back().lse});
      for (double x : truth.back().o) amax = std::max(amax, std::fabs(x));
    }
    Result merged;
    attend_in_parts(GetParam(), c, data, {0, 60, 150}, c, amax, &merged);
    for (const std::string& fault : judge(c, GetParam(), truth, exact, amax, merged).faults) {
      ADD_FAILURE() << c.line << ": " << fault;
    }
  }
}

TEST_P(Properties, BandIsTheDenseMaskThatSaysTheSame) {
  for (const char* in : {"f32", "bf16", "e4m3", "i8/i8/e4m3"}) {
    for (const char* mask : {"causal", "causal_br", "window=20/0", "window=3/7", "band=-1/9",
                             "band=5/-1", "window=0/0"}) {
      const AttentionCase band(fmt::format("b2 h2/1 q70 k130 lse in={} {}", in, mask));
      if (!takes(AttentionCase(band.line + " dense=bool:1:1"))) continue;
      Data data = make_data(band);
      AttentionCase dense = band;
      dense.mask = {};
      dense.dense = Dtype::boolean;
      dense.dense_batch = dense.dense_heads = false;
      const std::int64_t offset = band.mask.align == Mask::Align::bottom_right ? 130 - 70 : 0;
      const Rows by_band = attend(band, data);
      for (std::int64_t i = 0; i < 70; ++i) {
        for (std::int64_t j = 0; j < 130; ++j) {
          const std::int64_t distance = j - i - offset;
          const bool seen = (band.mask.left < 0 || distance >= -band.mask.left) &&
                            (band.mask.right < 0 || distance <= band.mask.right);
          data.dense.push_back(seen ? 0.0f : -std::numeric_limits<float>::infinity());
        }
      }
      expect_same(band, GetParam(), by_band, attend(dense, data));
    }
  }
}

TEST_P(Properties, PackedSequencesAreAsIfAlone) {
  for (const char* in : {"f32", "bf16", "e4m3", "i8/i8/e4m3"}) {
    const AttentionCase packed(
        fmt::format("b4 h4/2 q5:0:70:33 k60:20:0:200 packed lse in={} causal_br", in));
    if (!takes(packed)) continue;
    const Data data = make_data(packed);
    Rows one_by_one;
    for (std::size_t b = 0; b < data.sequences.size(); ++b) {
      const AttentionCase alone(
          fmt::format("q{} k{} h4/2 lse in={} causal_br", packed.len_q[b], packed.len_k[b], in));
      const Rows rows = attend(alone, {.sequences = {data.sequences[b]}, .sinks = {}, .dense = {}});
      one_by_one.o.insert(one_by_one.o.end(), rows.o.begin(), rows.o.end());
      one_by_one.lse.insert(one_by_one.lse.end(), rows.lse.begin(), rows.lse.end());
    }
    const Rows together = attend(packed, data);
    EXPECT_EQ(together.o, one_by_one.o);
    EXPECT_EQ(together.lse, one_by_one.lse);
  }
}

TEST_P(Properties, GroupedQueriesAreRepeatedKeys) {
  for (const char* in : {"f32", "bf16", "e4m3", "i8/i8/e4m3"}) {
    const AttentionCase grouped(fmt::format("b2 h6/2 q30 k90 lse in={} causal sinks", in));
    if (!takes(grouped)) continue;
    const AttentionCase repeated(fmt::format("b2 h6 q30 k90 lse in={} causal sinks", in));
    Data data = make_data(grouped);
    const Rows before = attend(grouped, data);
    for (SequenceData& s : data.sequences) {
      for (Tokens* tokens : {&s.k, &s.v}) {
        const Tokens old = *tokens;
        *tokens = Tokens(old.len, 6, old.dim);
        for (std::int64_t t = 0; t < old.len; ++t) {
          for (std::int64_t h = 0; h < 6; ++h) {
            std::copy_n(old.at(t, h / 3), old.dim, tokens->at(t, h));
          }
        }
      }
    }
    expect_same(grouped, GetParam(), before, attend(repeated, data));
  }
}

TEST_P(Properties, ConstantValuesComeOutUnchanged) {
  for (const char* line : {"h2 q33 k300 in=f32 causal", "h2 q33 k300 in=bf16 window=20/0",
                           "h2 q33 k300 in=e4m3 softcap20", "h2 q33 k300 in=i8/i8/e4m3 causal_br",
                           "h2 q33 k300 in=f32 sdpa=int8qk", "h2 q33 k300 in=f32 sdpa=high",
                           "h2 q33 k300 in=bf16 sdpa=int8qk", "h2 q33 k300 in=bf16 sdpa=fp8"}) {
    const AttentionCase c(line);
    if (!takes(c)) continue;
    Data data = make_data(c);
    // 1.75 and its descale are exact in e4m3: the row sum must be that of the rounded P. On a GPU
    // that sum may be truncated as an FP8 MMA does, or, where P has 16 bits, be P's before it is
    // rounded.
    const double error = is_complete(GetParam()) ? 2e-6 : 2e-3;
    std::fill(data.sequences[0].v.values.begin(), data.sequences[0].v.values.end(), 1.75f);
    for (double x : attend(c, data).o) ASSERT_NEAR(x, 1.75, error) << line;
  }
}

TEST_P(Properties, SmoothingChangesNothingButTheError) {
  for (const char* line :
       {"b2 h4/2 q40 k150 lse in=f32 sinks", "b2 h4/2 q40 k150 lse in=f32 softcap20 causal_br",
        "b2 h4/2 q40 k150 lse in=f32 window=30/0 sinks softcap30",
        "b2 h4/2 q40 k150 lse in=bf16 sinks softcap20"}) {
    for (const char* recipe : {"int8qk", "int8qk+smooth_q", "high+smooth_q", "fp8-hadamard"}) {
      const AttentionCase exact(std::string(line) + " sdpa=exact data=normal");
      if (!takes(exact)) continue;
      const Data data = make_data(exact);
      const Rows expected = attend(exact, data);
      for (const char* smooth : {"", "+smooth_k=off"}) {
        const AttentionCase c(fmt::format("{} sdpa={}{}", line, recipe, smooth));
        if (!takes(c)) continue;
        const Rows rows = attend(c, data);
        EXPECT_GE(sqnr_db(expected.o, rows.o), least_truth_db(c, GetParam())) << c.line;
        for (std::size_t n = 0; n < rows.lse.size(); ++n) {
          ASSERT_NEAR(expected.lse[n], rows.lse[n], 0.3) << c.line;
        }
      }
    }
  }
}

// A cache that is filled in steps, against one filled at once by quantize().
struct CacheKind {
  const char* in;      // q/k/v as attention sees them
  const char* layout;  // paged16, or dense with padding
  bool k_mean, hadamard;
};

TEST_P(Properties, AppendThenAttendIsAttendWhole) {
  for (const CacheKind& kind : std::vector<CacheKind>{{"f32", "paged16", false, false},
                                                      {"f32", "padded_k", false, false},
                                                      {"bf16", "paged16", false, false},
                                                      {"bf16/e4m3/e4m3", "paged16", false, false},
                                                      {"bf16/e4m3/e4m3", "padded_k", true, true},
                                                      {"bf16/i8/e4m3", "paged3", true, true},
                                                      {"f32/i8/e4m3", "padded_k", true, false},
                                                      {"e4m3", "paged16", false, true}}) {
    const AttentionCase c(
        fmt::format("b2 h4/2 q3 k70:41 lse in={} {} causal_br sk=token sv=token {} {}", kind.in,
                    kind.layout, kind.k_mean ? "k_mean" : "", kind.hadamard ? "had=qkv" : ""));
    if (!takes(c)) continue;
    const Data data = make_data(c);
    Request request;
    make_request(c, data, request);
    const Rows whole = attend(c, data);

    // The same request over empty caches, filled 0 … 40, then the rest.
    Arena arena;
    AttentionArgs& args = request.args;
    args.k = request.kv.make(arena, args.k.dtype, c.heads_kv, c.dim_qk);
    args.v = request.kv.make(arena, args.v.dtype, c.heads_kv, c.dim_v);
    if (args.descale.k) {
      args.descale.k = Scale::per_token(request.kv.make_per_token(arena, Dtype::f32, c.heads_kv));
      args.descale.v = Scale::per_token(request.kv.make_per_token(arena, Dtype::f32, c.heads_kv));
    }
    std::vector<std::int32_t> done{0, 0};
    for (std::int64_t step : {40, 1, 1000}) {
      std::vector<float> k, v;
      std::vector<std::int32_t> cu{0};
      std::vector<std::int32_t> before = done;
      for (std::size_t b = 0; b < 2; ++b) {
        const SequenceData& s = data.sequences[b];
        const std::int64_t end = std::min<std::int64_t>(done[b] + step, s.k.len);
        k.insert(k.end(), s.k.at(done[b], 0), s.k.at(end, 0));
        v.insert(v.end(), s.v.at(done[b], 0), s.v.at(end, 0));
        cu.push_back(cu.back() + static_cast<std::int32_t>(end) - done[b]);
        done[b] = static_cast<std::int32_t>(end);
      }
      Mirror mirror(GetParam());
      const AppendKvArgs append =
          mirror.place(AppendKvArgs{.k = arena.copy(k, {cu.back(), c.heads_kv, c.dim_qk}),
                                    .v = arena.copy(v, {cu.back(), c.heads_kv, c.dim_v}),
                                    .k_cache = args.k,
                                    .v_cache = args.v,
                                    .cache_seqlens = arena.copy(before, {2}),
                                    .cu_seqlens = arena.copy(cu, {3}),
                                    .page_table = args.cache.page_table,
                                    .k_descale = args.descale.k,
                                    .v_descale = args.descale.v,
                                    .hadamard_k = kind.hadamard,
                                    .hadamard_v = kind.hadamard,
                                    .k_mean = args.smoothing.k_mean,
                                    .backend = GetParam()});
      if (!takes_request(append)) return;
      append_kv(append);
      mirror.read_back();
    }
    const Rows appended = joined(run_plain(c, request, GetParam()));
    // A number that lies between two codes may go either way.
    EXPECT_GE(sqnr_db(whole.o, appended.o), c.quantized() ? 45 : 110) << c.line;
  }
}

INSTANTIATE_TEST_SUITE_P(, Properties, testing::ValuesIn(usable_backends()), backend_name);

}  // namespace
}  // namespace sotto::test

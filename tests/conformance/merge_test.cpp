// merge_states() of every backend against its formula. A case is an attention case of which only
// the shape of the output counts, with splits<n> states of dtype in=…; sinks lets states have
// rows that saw no key, and row 0 none at all.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "harness.h"
#include "judge.h"
#include "mirror.h"
#include "output_reader.h"

namespace sotto::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct MergeCase {
  explicit MergeCase(const std::string& line) : c(line), random(seed_of(line)) {
    placing.packed = c.packed_q;
    placing.capacity = c.capacity_q();
    placing.rows = c.packed_q ? c.capacity_q() : c.batch;
    for (std::int64_t b = 0; b < c.batch; ++b) placing.first.push_back(b);
    exact.resize(static_cast<std::size_t>(c.batch));
    for (auto& e : exact) {
      e.o.resize(static_cast<std::size_t>(c.capacity_q() * c.heads_q * c.dim_v));
      e.lse.assign(static_cast<std::size_t>(c.heads_q * c.capacity_q()), -kInfinity);
    }
    for (int s = 0; s < c.splits; ++s) {
      states.push_back(
          {.out = placing.make(arena, c.q.dtype, c.heads_q, c.dim_v, c.order),
           .lse = placing.make_head_major(arena, c.batch, c.heads_q, placing.capacity)});
    }
    for (std::size_t b = 0; b < exact.size(); ++b) {
      for (std::int64_t i = 0; i < c.capacity_q(); ++i) {
        for (std::int64_t h = 0; h < c.heads_q; ++h) fill(b, i, h);
      }
    }
  }

  // A row of every state, and the exact merged one. The LSEs spread over hundreds of nats.
  void fill(std::size_t b, std::int64_t i, std::int64_t h) {
    std::normal_distribution<float> normal;
    double& lse = exact[b].lse[static_cast<std::size_t>(h * c.capacity_q() + i)];
    std::vector<double> lses;
    for (PartialState& state : states) {
      const bool unseen = c.sinks && (i == 0 || random() % 3 == 0);
      float& value = placing.head_major(state.lse, b, h, i);
      value = unseen ? -std::numeric_limits<float>::infinity()
                     : normal(random) * (i % 2 ? 100.0f : 1.0f);
      lses.push_back(static_cast<double>(value));
    }
    const double max = *std::max_element(lses.begin(), lses.end());
    double sum = 0;
    for (double x : lses) sum += max == -kInfinity ? 0 : std::exp(x - max);
    if (sum > 0) lse = max + std::log(sum);
    double* o = exact[b].o.data() + (i * c.heads_q + h) * c.dim_v;
    for (std::size_t s = 0; s < states.size(); ++s) {
      std::byte* to = placing.at(states[s].out, b, i, h);
      for (std::int64_t d = 0; d < c.dim_v; ++d) {
        const float value = rounded(normal(random), c.q.dtype);
        store_float(c.q.dtype, to + d * dtype_size(c.q.dtype), value);
        if (lses[s] != -kInfinity) o[d] += std::exp(lses[s] - lse) * static_cast<double>(value);
      }
    }
    for (std::int64_t d = 0; d < c.dim_v; ++d) amax = std::max(amax, std::fabs(o[d]));
  }

  AttentionCase c;
  Random random;
  Arena arena;
  Placing placing;
  std::vector<PartialState> states;
  std::vector<Exact> exact;
  double amax = 0;
};

void test_merge(const std::string& line, const std::string& backend) {
  MergeCase m(line);
  OutputReader reader(m.c, m.placing, m.arena, m.amax);
  Mirror mirror(backend);
  const MergeArgs args = mirror.place(MergeArgs{.states = m.states,
                                                .out = reader.out(),
                                                .lse = reader.lse(),
                                                .output = reader.output(),
                                                .backend = backend});
  if (!accepts(backend, line, explain(args))) return;
  merge_states(args);
  mirror.read_back();
  Result oracle;
  for (const Exact& e : m.exact) oracle.sequences.push_back({.o = e.o, .lse = e.lse});
  const Verdict verdict = judge(m.c, backend, m.exact, oracle, m.amax, reader.read());
  for (const std::string& fault : verdict.faults) ADD_FAILURE() << fault;
}

}  // namespace

void register_merge_cases() {
  register_family(
      "Merge",
      {
          "b2 q9 h4 d{64,80} in={f32,bf16,f16} splits{1,2,5} lse {sinks,}",
          "q9 h4 d64 packed in={f32,bf16} splits3 lse {sinks,bhsd,strided}",
          "q9 h2 d128 in=f32 splits{2,3} {sinks,packed} "
          "out={bf16,f16,e4m3,groups64,groups128:ue8m0:col,groups64:pad,nvfp4}",
          "b2 q{0,1,150} h2 d128 in=bf16 splits2 {bhsd,strided} lse out={f32,nvfp4}",
          // 20 far rows: 150 reserve more addresses than ThreadSanitizer leaves a program.
          "b2 q{0,1,20} h2 d128 in=bf16 splits2 far lse out={f32,nvfp4}",
      },
      test_merge);
}

}  // namespace sotto::test

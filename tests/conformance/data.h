// Inputs by name, sequence by sequence, before any layout or quantisation.
//
//   normal     N(0, 1)
//   outliers   four channels of Q and K ×20, Q scaled to logits of standard deviation 2
//   k_bias     K has channel means of 5–10 σ;  qk_bias: Q has some of 1–2 σ, too
//   sink       key 0 draws most of the weight and has V ≈ 0
//   large      logits of hundreds of nats
//   v_bias     V has channel means of 3–6 σ
//   zeros      all 0
//   denormal   V of 1e-40, Q and K of 1e-22
//   constant   every key the same, every value the same
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "attention_case.h"

namespace sotto::test {

// Tokens of one sequence: [len, heads, dim].
struct Tokens {
  std::int64_t len = 0, heads = 0, dim = 0;
  std::vector<float> values;

  Tokens() = default;
  Tokens(std::int64_t len_, std::int64_t heads_, std::int64_t dim_)
      : len(len_),
        heads(heads_),
        dim(dim_),
        values(static_cast<std::size_t>(len_ * heads_ * dim_)) {}

  float* at(std::int64_t token, std::int64_t head) {
    return values.data() + (token * heads + head) * dim;
  }
  const float* at(std::int64_t token, std::int64_t head) const {
    return values.data() + (token * heads + head) * dim;
  }
};

struct SequenceData {
  Tokens q, k, v;
  std::vector<std::int32_t> positions_q = {}, positions_k = {};  // for RoPE
};

struct Data {
  std::vector<SequenceData> sequences;
  std::vector<float> sinks;  // [heads_q]
  // What the dense mask adds to a score, -inf where it hides the key:
  // [batch or 1, heads_q or 1, capacity_q, capacity_k].
  std::vector<float> dense;
};

using Random = std::mt19937_64;

void fill_normal(std::vector<float>& values, Random& random);

// Rounded to the case's dtypes where these have 16 bits.
Data make_data(const AttentionCase& c);

// x as a tensor of the dtype would hold it (16 bits; else unchanged).
float rounded(float x, Dtype dtype);

}  // namespace sotto::test

#include "data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "spec.h"

namespace sotto::test {
namespace {

void scale_all(Tokens& tokens, float factor) {
  for (float& x : tokens.values) x *= factor;
}

template <class F>
void each_channel(Tokens& tokens, F&& f) {
  for (std::size_t n = 0; n < tokens.values.size(); ++n) {
    f(tokens.values[n], static_cast<std::int64_t>(n) % tokens.dim);
  }
}

// A mean for each channel, of magnitude low … high, added to every token.
void add_bias(Tokens& tokens, float low, float high, Random& random) {
  std::uniform_real_distribution<float> magnitude(low, high);
  std::vector<float> bias;
  for (std::int64_t d = 0; d < tokens.dim; ++d) {
    bias.push_back(magnitude(random) * (random() % 2 ? 1.0f : -1.0f));
  }
  each_channel(tokens, [&](float& x, std::int64_t d) { x += bias[static_cast<std::size_t>(d)]; });
}

void shape_data(const std::string& name, SequenceData& s, Random& random) {
  const auto dim = static_cast<float>(s.q.dim);
  if (name == "normal") return;
  if (name == "outliers") {
    const auto outlier = [](float& x, std::int64_t d) {
      if (d % 16 == 3 && d < 64) x *= 20.0f;
    };
    each_channel(s.q, outlier);
    each_channel(s.k, outlier);
    const float outliers = std::min(4.0f, dim / 16.0f);
    scale_all(s.q, 2.0f * std::sqrt(dim) / std::sqrt(outliers * 400.0f * 400.0f + dim));
  } else if (name == "k_bias") {
    add_bias(s.k, 5.0f, 10.0f, random);
  } else if (name == "qk_bias") {
    add_bias(s.q, 1.0f, 2.0f, random);
    add_bias(s.k, 5.0f, 10.0f, random);
  } else if (name == "sink") {
    for (std::int64_t h = 0; h < s.k.heads && s.k.len > 0; ++h) {
      for (std::int64_t d = 0; d < s.k.dim; ++d) s.k.at(0, h)[d] = d % 3 ? 1.0f : -1.0f;
      for (std::int64_t d = 0; d < s.v.dim; ++d) s.v.at(0, h)[d] *= 0.01f;
    }
    each_channel(s.q, [](float& x, std::int64_t d) { x += d % 3 ? 0.9f : -0.9f; });
  } else if (name == "large") {
    scale_all(s.q, 15.0f);
    scale_all(s.k, 15.0f);
  } else if (name == "v_bias") {
    add_bias(s.v, 3.0f, 6.0f, random);
  } else if (name == "zeros") {
    for (Tokens* tokens : {&s.q, &s.k, &s.v}) scale_all(*tokens, 0.0f);
  } else if (name == "denormal") {
    scale_all(s.q, 1e-22f);
    scale_all(s.k, 1e-22f);
    scale_all(s.v, 1e-40f);
  } else if (name == "constant") {
    for (Tokens* tokens : {&s.k, &s.v}) {
      for (std::int64_t t = 1; t < tokens->len; ++t) {
        std::copy_n(tokens->at(0, 0), tokens->heads * tokens->dim, tokens->at(t, 0));
      }
    }
  } else {
    throw std::invalid_argument("no data " + name);
  }
}

}  // namespace

void fill_normal(std::vector<float>& values, Random& random) {
  std::normal_distribution<float> normal;
  for (float& x : values) x = normal(random);
}

float rounded(float x, Dtype dtype) {
  if (dtype == Dtype::f16) return static_cast<float>(f16(x));
  if (dtype == Dtype::bf16) return static_cast<float>(bf16(x));
  return x;
}

Data make_data(const AttentionCase& c) {
  Random random(seed_of(c.line));
  Data data;
  data.sinks.resize(static_cast<std::size_t>(c.heads_q));
  fill_normal(data.sinks, random);
  for (std::size_t b = 0; b < static_cast<std::size_t>(c.batch); ++b) {
    SequenceData s{.q = Tokens(c.len_q[b], c.heads_q, c.dim_qk),
                   .k = Tokens(c.len_k[b], c.heads_kv, c.dim_qk),
                   .v = Tokens(c.len_k[b], c.heads_kv, c.dim_v)};
    for (Tokens* tokens : {&s.q, &s.k, &s.v}) fill_normal(tokens->values, random);
    shape_data(c.data, s, random);
    for (float& x : s.q.values) x = rounded(x, c.q.dtype);
    for (float& x : s.k.values) x = rounded(x, c.k.dtype);
    for (float& x : s.v.values) x = rounded(x, c.v.dtype);

    for (std::int64_t i = 0; i < c.len_q[b]; ++i) {
      s.positions_q.push_back(static_cast<std::int32_t>(random() % 64));
    }
    for (std::int64_t j = 0; j < c.len_k[b]; ++j) {
      s.positions_k.push_back(static_cast<std::int32_t>(random() % 64));
    }
    data.sequences.push_back(std::move(s));
  }
  if (c.dense) {
    const std::int64_t masks = (c.dense_batch ? c.batch : 1) * (c.dense_heads ? c.heads_q : 1);
    data.dense.resize(static_cast<std::size_t>(masks * c.capacity_q() * c.capacity_k()));
    fill_normal(data.dense, random);
    for (float& x : data.dense) {
      x = *c.dense == Dtype::boolean ? 0.0f : rounded(x, *c.dense);
      if (random() % 4 == 0) x = -std::numeric_limits<float>::infinity();
    }
  }
  return data;
}

}  // namespace sotto::test

#include "truth.h"

#include <cmath>
#include <limits>

namespace sotto::test {

namespace {

// A head's tokens, rotated: [len][dim].
std::vector<std::vector<double>> rows(const Tokens& tokens, std::int64_t head,
                                      const std::vector<std::int32_t>& positions,
                                      std::int64_t first_position, const RopeWords* rope) {
  std::vector<std::vector<double>> result;
  for (std::int64_t t = 0; t < tokens.len; ++t) {
    result.emplace_back(tokens.at(t, head), tokens.at(t, head) + tokens.dim);
    if (rope == nullptr) continue;
    rope->rotate(result.back(),
                 rope->positions ? positions[static_cast<std::size_t>(t)] : first_position + t);
  }
  return result;
}

}  // namespace

Exact true_attention(const AttentionCase& c, const Data& data, std::size_t sequence) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const SequenceData& s = data.sequences[sequence];
  const std::int64_t len_q = s.q.len, len_k = s.k.len;
  const std::int64_t offset = c.mask.align == Mask::Align::bottom_right ? len_k - len_q : 0;
  const double scale = c.scale ? *c.scale : 1.0 / std::sqrt(static_cast<double>(c.dim_qk));
  const std::size_t mask_index =
      c.dense_batch ? sequence * static_cast<std::size_t>(c.dense_heads ? c.heads_q : 1) : 0;

  Exact exact;
  exact.o.resize(static_cast<std::size_t>(len_q * c.heads_q * c.dim_v));
  exact.lse.assign(static_cast<std::size_t>(c.heads_q * len_q), -kInfinity);
  for (std::int64_t h = 0; h < c.heads_q; ++h) {
    const std::int64_t kv = h / (c.heads_q / c.heads_kv);
    const auto q = rows(s.q, h, s.positions_q, offset, &c.rope);
    const auto k = rows(s.k, kv, s.positions_k, 0, &c.rope);
    const auto v = rows(s.v, kv, {}, 0, nullptr);
    for (std::int64_t i = 0; i < len_q; ++i) {
      std::vector<double> z(static_cast<std::size_t>(len_k), -kInfinity);
      double max = c.sinks ? data.sinks[static_cast<std::size_t>(h)] : -kInfinity;
      for (std::int64_t j = 0; j < len_k; ++j) {
        const std::int64_t distance = j - i - offset;
        if (c.mask.right >= 0 && distance > c.mask.right) continue;
        if (c.mask.left >= 0 && distance < -c.mask.left) continue;
        double dot = 0;
        for (std::size_t d = 0; d < static_cast<std::size_t>(c.dim_qk); ++d) {
          dot += q[static_cast<std::size_t>(i)][d] * k[static_cast<std::size_t>(j)][d];
        }
        double& score = z[static_cast<std::size_t>(j)];
        score = scale * dot;
        if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
        if (c.dense) {
          const std::size_t m = mask_index + static_cast<std::size_t>(c.dense_heads ? h : 0);
          score += data.dense[(m * static_cast<std::size_t>(c.capacity_q()) +
                               static_cast<std::size_t>(i)) *
                                  static_cast<std::size_t>(c.capacity_k()) +
                              static_cast<std::size_t>(j)];
        }
        max = std::max(max, score);
      }
      if (max == -kInfinity) continue;
      double sum = c.sinks ? std::exp(data.sinks[static_cast<std::size_t>(h)] - max) : 0.0;
      double* o = exact.o.data() + (i * c.heads_q + h) * c.dim_v;
      for (std::size_t j = 0; j < z.size(); ++j) {
        const double p = std::exp(z[j] - max);
        if (p == 0) continue;
        sum += p;
        for (std::int64_t d = 0; d < c.dim_v; ++d) o[d] += p * v[j][static_cast<std::size_t>(d)];
      }
      for (std::int64_t d = 0; d < c.dim_v; ++d) o[d] /= sum;
      exact.lse[static_cast<std::size_t>(h * len_q + i)] = max + std::log(sum);
    }
  }
  return exact;
}

}  // namespace sotto::test

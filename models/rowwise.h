// What a language model does between its matrix products, and what its evaluation does with rows
// of logits: vectorised (Highway, dispatched at run time) and spread over the cores.
#pragma once

#include <cstdint>

namespace sotto::models {

// y[r,:] = x[r,:] / sqrt(mean(x[r,:]²) + eps) · weight, for `rows` rows of `cols` floats.
void rms_norm(const float* x, const float* weight, float eps, std::int64_t rows, std::int64_t cols,
              float* y);

// y[r,i] = silu(x[r,i]) · x[r,cols+i],  silu(g) = g / (1 + exp(-g)): the gated unit on rows that
// hold `cols` gates and then `cols` values.
void silu_mul(const float* x, std::int64_t rows, std::int64_t cols, float* y);

struct RowSummary {
  double log_sum_exp = 0;
  std::int64_t argmax = 0;  // the first of equals
};

// Of one row of logits.
RowSummary summarize(const float* logits, std::int64_t cols);

// Kullback-Leibler divergence KL(p ‖ q) in nats of two rows of logits, whose log_sum_exp are given.
double kl_divergence(const float* p, double p_log_sum_exp, const float* q, double q_log_sum_exp,
                     std::int64_t cols);

struct Energy {
  double reference = 0;  // Σ ref²
  double error = 0;      // Σ (ref − x)²
};

// Over `rows` contiguous rows of `cols` floats.
Energy error_energy(const float* ref, const float* x, std::int64_t rows, std::int64_t cols);

}  // namespace sotto::models

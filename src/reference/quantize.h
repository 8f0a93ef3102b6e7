// quantize(), channel_mean() and append_kv() in float64, as their headers define them: obvious and
// slow. Arguments are validated.
#pragma once

#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "sotto/kv_cache.h"
#include "sotto/quantize.h"

namespace sotto::reference {

void quantize(const QuantizeArgs& args);
void channel_mean(const ChannelMeanArgs& args);
void append_kv(const AppendKvArgs& args);

// In place, orthonormal, its own inverse: within blocks of n, the largest power of two ≤ 256 that
// divides dim, times the matrix H[i][j] = (-1)^popcount(i & j) / sqrt(n).
void hadamard_row(double* x, std::int64_t dim);

// (token, head) of sequence `sequence` after RoPE and Hadamard. `position`: row of cos and sin,
// unless rope.positions says otherwise.
std::vector<double> transformed_row(const Tensor& x, const Scale& descale, const Rope& rope,
                                    bool hadamard, const core::Placement& place,
                                    std::int64_t sequence, std::int64_t token, std::int64_t head,
                                    std::int64_t position);

// row − mean[sequence, head] (nothing where mean is absent), rounded to floats, once: what amax and
// the rounding to 8 bits see. Finite numbers stay finite.
std::vector<float> centered_row(const std::vector<double>& row, const Tensor& mean,
                                std::int64_t sequence, std::int64_t head);

// 448 or 127.
float largest_of(Dtype dtype);

// values[0 … dim) in a tensor's dtype at an offset: 8-bit ones are divided by descale.
void write_row(const Tensor& out, std::int64_t offset, const std::vector<float>& values,
               float descale);

}  // namespace sotto::reference

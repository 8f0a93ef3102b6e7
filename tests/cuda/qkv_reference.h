// What sdpa()'s quantiser should give, by quantize() and channel_mean() of backend cpu.
#pragma once

#include "qkv_data.h"

namespace sotto::test {

// One sequence of Q, K or V.
struct QuantizedRows {
  HostTensor values;  // [1, len, heads, dim], f32: what is rounded
  HostTensor codes;   // the same, of the recipe's dtype
  HostTensor scale;   // by `granularity`: [1, len, heads], [1, heads, blocks] or [1, heads]
  HostTensor dot;     // [1, heads, len]: scale · q·mean(K), where LSE is asked for
  HostTensor mean;    // [1, heads, dim], that was subtracted; or empty
  Granularity granularity;

  float scale_at(int head, int token) const;
};

// `k_mean`: of the same sequence, for Q.
QuantizedRows quantize_on_cpu(const QkvData& data, Operand operand, int b,
                              const HostTensor& k_mean = {});

}  // namespace sotto::test

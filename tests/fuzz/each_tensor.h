// Every tensor that a request can have.
#pragma once

#include "sotto/sotto.h"

namespace sotto::test {

template <class F>
void each_tensor(Scale& scale, F&& f) {
  f(scale.values);
  f(scale.cu_blocks);
}

template <class F>
void each_tensor(Rope& rope, F&& f) {
  f(rope.cos);
  f(rope.sin);
  f(rope.positions);
}

template <class F>
void each_tensor(AttentionArgs& a, F&& f) {
  for (Tensor* t : {&a.q,
                    &a.k,
                    &a.v,
                    &a.out,
                    &a.lse,
                    &a.mask.dense,
                    &a.sinks,
                    &a.seq.cu_seqlens_q,
                    &a.seq.cu_seqlens_k,
                    &a.seq.seqused_q,
                    &a.seq.seqused_k,
                    &a.cache.page_table,
                    &a.cache.batch_idx,
                    &a.smoothing.k_mean,
                    &a.smoothing.row_bias,
                    &a.smoothing.key_bias,
                    &a.smoothing.v_mean,
                    &a.output.scale,
                    &a.output.group_scale,
                    &a.v_lo,
                    &a.alibi_slopes}) {
    f(*t);
  }
  for (Scale* s : {&a.descale.q, &a.descale.k, &a.descale.v}) each_tensor(*s, f);
}

template <class F>
void each_tensor(QuantizeArgs& a, F&& f) {
  for (Tensor* t :
       {&a.x, &a.out, &a.out_lo, &a.mean, &a.dot_with, &a.dot, &a.cu_seqlens, &a.seqused}) {
    f(*t);
  }
  each_tensor(a.descale, f);
  each_tensor(a.rope, f);
}

template <class F>
void each_tensor(ChannelMeanArgs& a, F&& f) {
  for (Tensor* t : {&a.x, &a.mean, &a.cu_seqlens, &a.seqused}) f(*t);
  each_tensor(a.descale, f);
  each_tensor(a.rope, f);
}

template <class F>
void each_tensor(AppendKvArgs& a, F&& f) {
  for (Tensor* t : {&a.k, &a.v, &a.k_cache, &a.v_cache, &a.cache_seqlens, &a.cu_seqlens,
                    &a.page_table, &a.batch_idx, &a.k_mean, &a.v_mean}) {
    f(*t);
  }
  each_tensor(a.k_descale, f);
  each_tensor(a.v_descale, f);
  each_tensor(a.rope, f);
}

template <class F>
void each_tensor(MergeArgs& a, F&& f) {
  for (PartialState& state : a.states) {
    f(state.out);
    f(state.lse);
  }
  for (Tensor* t : {&a.out, &a.lse, &a.output.scale, &a.output.group_scale}) f(*t);
}

}  // namespace sotto::test

// Every tensor that a request can have, absent ones included: f(name, access, tensor), where the
// name is what errors call it.
#pragma once

#include <concepts>
#include <type_traits>

#include "core/check.h"
#include "sotto/sotto.h"

namespace sotto::core {

// T, or const T.
template <class T, class Of>
concept MaybeConst = std::same_as<std::remove_const_t<T>, Of>;

template <MaybeConst<Scale> T, class F>
void each_tensor(T& scale, const char* name, const char* cu_blocks_name, Access access, F&& f) {
  f(name, access, scale.values);
  f(cu_blocks_name, Access::read, scale.cu_blocks);
}

template <MaybeConst<Rope> T, class F>
void each_tensor(T& rope, F&& f) {
  f("rope.cos", Access::read, rope.cos);
  f("rope.sin", Access::read, rope.sin);
  f("rope.positions", Access::read, rope.positions);
}

template <MaybeConst<SdpaOptions> T, class F>
void each_tensor(T& options, F&& f) {
  each_tensor(options.rope, f);
  f("positions_k", Access::read, options.positions_k);
}

template <MaybeConst<AttentionArgs> T, class F>
void each_tensor(T& a, F&& f) {
  f("q", Access::read, a.q);
  f("k", Access::read, a.k);
  f("v", Access::read, a.v);
  f("out", Access::write, a.out);
  f("lse", Access::write, a.lse);
  f("mask.dense", Access::read, a.mask.dense);
  each_tensor(a.descale.q, "descale.q", "descale.q.cu_blocks", Access::read, f);
  each_tensor(a.descale.k, "descale.k", "descale.k.cu_blocks", Access::read, f);
  each_tensor(a.descale.v, "descale.v", "descale.v.cu_blocks", Access::read, f);
  f("sinks", Access::read, a.sinks);
  f("seq.cu_seqlens_q", Access::read, a.seq.cu_seqlens_q);
  f("seq.cu_seqlens_k", Access::read, a.seq.cu_seqlens_k);
  f("seq.seqused_q", Access::read, a.seq.seqused_q);
  f("seq.seqused_k", Access::read, a.seq.seqused_k);
  f("cache.page_table", Access::read, a.cache.page_table);
  f("cache.batch_idx", Access::read, a.cache.batch_idx);
  f("smoothing.k_mean", Access::read, a.smoothing.k_mean);
  f("smoothing.row_bias", Access::read, a.smoothing.row_bias);
  f("smoothing.key_bias", Access::read, a.smoothing.key_bias);
  f("smoothing.v_mean", Access::read, a.smoothing.v_mean);
  f("output.scale", Access::read, a.output.scale);
  f("output.group_scale", Access::write, a.output.group_scale);
  f("v_lo", Access::read, a.v_lo);
  f("alibi_slopes", Access::read, a.alibi_slopes);
}

template <MaybeConst<QuantizeArgs> T, class F>
void each_tensor(T& a, F&& f) {
  f("x", Access::read, a.x);
  f("out", Access::write, a.out);
  f("out_lo", Access::write, a.out_lo);
  each_tensor(a.descale, "descale", "descale.cu_blocks", Access::write, f);
  each_tensor(a.rope, f);
  f("mean", Access::read, a.mean);
  f("dot_with", Access::read, a.dot_with);
  f("dot", Access::write, a.dot);
  f("cu_seqlens", Access::read, a.cu_seqlens);
  f("seqused", Access::read, a.seqused);
}

template <MaybeConst<ChannelMeanArgs> T, class F>
void each_tensor(T& a, F&& f) {
  f("x", Access::read, a.x);
  f("mean", Access::write, a.mean);
  each_tensor(a.descale, "descale", "descale.cu_blocks", Access::read, f);
  each_tensor(a.rope, f);
  f("cu_seqlens", Access::read, a.cu_seqlens);
  f("seqused", Access::read, a.seqused);
}

template <MaybeConst<AppendKvArgs> T, class F>
void each_tensor(T& a, F&& f) {
  f("k", Access::read, a.k);
  f("v", Access::read, a.v);
  f("k_cache", Access::write, a.k_cache);
  f("v_cache", Access::write, a.v_cache);
  f("cache_seqlens", Access::read, a.cache_seqlens);
  f("cu_seqlens", Access::read, a.cu_seqlens);
  f("page_table", Access::read, a.page_table);
  f("batch_idx", Access::read, a.batch_idx);
  each_tensor(a.k_descale, "k_descale", "k_descale.cu_blocks", Access::write, f);
  each_tensor(a.v_descale, "v_descale", "v_descale.cu_blocks", Access::write, f);
  each_tensor(a.rope, f);
  f("k_mean", Access::read, a.k_mean);
  f("v_mean", Access::read, a.v_mean);
}

template <MaybeConst<MergeArgs> T, class F>
void each_tensor(T& a, F&& f) {
  for (auto& state : a.states) {
    f("states[].out", Access::read, state.out);
    f("states[].lse", Access::read, state.lse);
  }
  f("out", Access::write, a.out);
  f("lse", Access::write, a.lse);
  f("output.scale", Access::read, a.output.scale);
  f("output.group_scale", Access::write, a.output.group_scale);
}

}  // namespace sotto::core

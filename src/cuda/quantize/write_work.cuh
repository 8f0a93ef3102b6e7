// What the writing kernel has to do: tiles of Q, V and K, each with its places and, where it has
// one in common with its head, its scale.
#pragma once

#include "cuda/quantize/round.cuh"
#include "cuda/quantize/work.cuh"

namespace sotto::cuda {

// Which values have a scale in common.
enum class Share { token, block, head };

__device__ __forceinline__ Share share_of(const QkvParams& params, Operand operand) {
  if (operand == Operand::v) return params.v_block_scale ? Share::block : Share::head;
  if (!params.int8) return Share::head;
  return operand == Operand::q ? Share::token : Share::block;
}

// e4m3 scales of Q and K: products in f16 stay exact where K's amax becomes `k_target`, Q's at most
// 14, and q_scale · k_scale · scale · log2 e has the 11 bits of a half. Both targets are 448 over a
// power of two, so that the codes are those of quantize(), but for a few of Q's.
struct QkScales {
  float q, k;
};

__device__ inline QkScales e4m3_scales(float amax_q, float amax_k, float scale, float k_target) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr float kQTarget = 14.0f;
  QkScales scales;
  scales.k = scale_of(amax_k, k_target);
  double unit = fabs(static_cast<double>(scale)) * kLog2E * static_cast<double>(scales.k);
  if (!(unit > 0.0)) unit = 1.0;
  const double smallest = static_cast<double>(scale_of(amax_q, kQTarget)) * unit;
  int exponent;
  const double fraction = frexp(smallest, &exponent);  // in [0.5, 1)
  const double rounded = ldexp(ceil(ldexp(fraction, 11)), exponent - 11);
  scales.q = fminf(fmaxf(static_cast<float>(rounded / unit), FLT_MIN), FLT_MAX);
  return scales;
}

// A list of items in which a group has a contiguous share: slot > head.
class WorkShare {
 public:
  __device__ WorkShare(unsigned slots, unsigned heads, unsigned worker, unsigned workers)
      : heads_(heads) {
    const unsigned items = slots * heads, each = items / workers, rest = items % workers;
    begin_ = each * worker + min(worker, rest);
    count_ = each + (worker < rest);
  }
  __device__ unsigned count() const { return count_; }
  __device__ int slot(unsigned i) const { return static_cast<int>((begin_ + i) / heads_); }
  __device__ int head(unsigned i) const { return static_cast<int>((begin_ + i) % heads_); }

 private:
  unsigned heads_, begin_, count_;
};

// One group's share of the work: of Q and V first, then of K, whose mean may still be on its way.
class WriteWork {
 public:
  __device__ WriteWork(const QkvParams& params, unsigned worker, unsigned workers)
      : params_(params),
        heads_q_(params.operands[0].heads),
        heads_kv_(params.operands[1].heads),
        queries_and_values_(max(params.queries.slots, params.keys.slots), heads_q_ + heads_kv_,
                            worker, workers),
        keys_(params.keys.slots, heads_kv_, workers - 1 - worker, workers) {}

  __device__ unsigned count() const { return queries_and_values_.count() + keys_.count(); }

  __device__ WorkItem item(unsigned i) const {
    Operand operand = Operand::k;
    int slot, head;
    if (i < queries_and_values_.count()) {
      slot = queries_and_values_.slot(i);
      head = queries_and_values_.head(i);
      operand = head < heads_q_ ? Operand::q : Operand::v;
      if (operand == Operand::v) head -= heads_q_;
    } else {
      slot = keys_.slot(i - queries_and_values_.count());
      head = keys_.head(i - queries_and_values_.count());
    }
    const TokenSide& side = operand == Operand::q ? params_.queries : params_.keys;
    const OperandParams& of = params_.operands[static_cast<int>(operand)];
    const TokenTile tile = tile_of_slot(side, slot);
    WorkItem item = work_item(params_, operand, head, slot, tile);
    if (item.used <= 0) return item;

    const bool packed = side.cu_seqlens != nullptr;
    const int head_of_all = tile.batch * of.heads + head;
    const std::int64_t head_row = packed ? head : head_of_all;
    const int pair = tile.batch * heads_kv_ + (operand == Operand::q ? head / group() : head);
    const std::int64_t row = head_row * side.len + tile.row;
    const std::int64_t tile_of_row = packed ? slot : slot - tile.batch * side.tiles;
    item.codes = of.codes;
    if (operand == Operand::v) {
      item.codes += head_row * of.dim * v_pitch(params_) + tile_of_row * kTileTokens;
      item.bad_keys =
          params_.bad_keys + (head_row * v_pitch(params_) + tile_of_row * kTileTokens) / 32;
    } else {
      item.codes += row * of.dim;
    }
    switch (share_of(params_, operand)) {
      case Share::token:
        item.scales = of.scales + row;
        break;
      case Share::block:
        item.scales = of.scales + head_row * (v_pitch(params_) / kTileTokens) + tile_of_row;
        break;
      case Share::head:
        wait_for_prior_kernel();
        item.scale = head_scale(operand, pair);
        if (tile.token == 0) of.scales[pair] = item.scale;
        break;
    }
    if (operand != Operand::q && of.mean != nullptr) {
      item.mean = of.mean + static_cast<std::int64_t>(head_of_all) * of.dim;
    }
    if (operand == Operand::q && params_.row_bias != nullptr) {
      item.row_bias = params_.row_bias + row;
      item.mean = params_.operands[1].mean + static_cast<std::int64_t>(pair) * of.dim;
    }
    return item;
  }

  // Between the channels of V's codes.
  __device__ static std::int64_t v_pitch(const QkvParams& params) {
    const TokenSide& keys = params.keys;
    return static_cast<std::int64_t>(keys.cu_seqlens == nullptr ? keys.tiles : keys.slots) *
           kTileTokens;
  }

 private:
  __device__ int group() const { return heads_q_ / heads_kv_; }

  // pair: of sequence and kv head.
  __device__ float head_scale(Operand operand, int pair) const {
    if (operand == Operand::v) {
      const float scale = scale_of(params_.operands[2].amax[pair], kE4m3Largest);
      return params_.v_power_of_two ? round_up_to_power_of_two(scale) : scale;
    }
    float amax_q = 0.0f;
    for (int i = 0; i < group(); ++i) {
      amax_q = fmaxf(amax_q, params_.operands[0].amax[pair * group() + i]);
    }
    const QkScales scales =
        e4m3_scales(amax_q, params_.operands[1].amax[pair], params_.scale, params_.k_target);
    return operand == Operand::q ? scales.q : scales.k;
  }

  const QkvParams& params_;
  int heads_q_, heads_kv_;
  WorkShare queries_and_values_, keys_;
};

}  // namespace sotto::cuda

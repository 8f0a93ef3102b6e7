#include "request.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "output_reader.h"
#include "spec.h"
#include "truth.h"

namespace sotto::test {
namespace {

// One operand of all sequences, packed without gaps, quantised or converted to its dtype.
struct Stored {
  Tensor data, lo, dot;
  Scale scale;
};

std::vector<std::int32_t> offsets(const std::vector<std::int64_t>& lengths, std::int64_t padding) {
  std::vector<std::int32_t> offsets{0};
  for (std::int64_t len : lengths) {
    offsets.push_back(offsets.back() + static_cast<std::int32_t>(len + padding));
  }
  return offsets;
}

// Block offsets of a packed tensor whose sequences have these many tokens.
std::vector<std::int32_t> block_offsets(const std::vector<std::int32_t>& cu, std::int64_t block) {
  std::vector<std::int32_t> blocks{0};
  for (std::size_t b = 0; b + 1 < cu.size(); ++b) {
    blocks.push_back(blocks.back() +
                     static_cast<std::int32_t>((cu[b + 1] - cu[b] + block - 1) / block));
  }
  return blocks;
}

class Builder {
 public:
  Builder(const AttentionCase& c, const Data& data, Request& request)
      : c_(c),
        data_(data),
        request_(request),
        args_(request.args),
        arena_(request.arena),
        order_(c.order),
        random_(seed_of(c.line) + 1) {}

  void build() {
    place();
    add_sequences();
    add_scores();
    if (c_.recipe) {
      request_.options.recipe = *c_.recipe;
      add_rope();
    }
    const Tensor k_mean = c_.k_mean ? mean_of(&SequenceData::k, c_.hadamard_qk) : Tensor();
    const Tensor q_mean = c_.q_mean ? mean_of(&SequenceData::q, c_.hadamard_qk) : Tensor();
    const Tensor v_mean = c_.v_mean ? mean_of(&SequenceData::v, c_.hadamard_v) : Tensor();
    const float scale = c_.scale.value_or(1.0f / std::sqrt(static_cast<float>(c_.dim_qk)));
    const Stored q = store(c_.q, c_.len_q, &SequenceData::q,
                           {.hadamard = c_.hadamard_qk,
                            .mean = q_mean,
                            .dot_with = c_.row_bias ? k_mean : Tensor(),
                            .dot_scale = scale,
                            .dot_before_mean = true});
    const Stored k =
        store(c_.k, c_.len_k, &SequenceData::k,
              {.hadamard = c_.hadamard_qk, .mean = k_mean, .dot_with = q_mean, .dot_scale = scale});
    const Stored v =
        store(c_.v, c_.len_k, &SequenceData::v, {.hadamard = c_.hadamard_v, .mean = v_mean});
    args_.q = lay_out(q.data, c_.len_q, request_.q);
    args_.k = lay_out(k.data, c_.len_k, request_.kv);
    args_.v = lay_out(v.data, c_.len_k, request_.kv);
    if (c_.v_lo) args_.v_lo = lay_out(v.lo, c_.len_k, request_.kv);
    args_.descale = {.q = lay_out(q.scale, c_.q, c_.len_q, c_.padding_q, request_.q, c_.heads_q),
                     .k = lay_out(k.scale, c_.k, c_.len_k, c_.padding_k, request_.kv, c_.heads_kv),
                     .v = lay_out(v.scale, c_.v, c_.len_k, c_.padding_k, request_.kv, c_.heads_kv)};
    if (!c_.row_bias) args_.smoothing.k_mean = k_mean;
    if (c_.row_bias) args_.smoothing.row_bias = lay_out_bias(q.dot, c_.len_q, request_.q);
    if (c_.q_mean) args_.smoothing.key_bias = lay_out_bias(k.dot, c_.len_k, request_.kv);
    args_.smoothing.v_mean = v_mean;
    args_.hadamard_v = c_.hadamard_v;
  }

 private:
  void place() {
    place_dense_or_packed(request_.q, c_.packed_q, c_.len_q, c_.padding_q, c_.capacity_q());
    place_dense_or_packed(request_.kv, c_.packed_k, c_.len_k, c_.padding_k, c_.capacity_k());
    if (c_.page_size > 0) place_pages(request_.kv);
    if (c_.batch_idx) {  // in reverse, with a row to spare
      request_.kv.rows = c_.batch + 1;
      std::reverse(request_.kv.first.begin(), request_.kv.first.end());
    }
  }

  void place_dense_or_packed(Placing& placing, bool packed,
                             const std::vector<std::int64_t>& lengths, std::int64_t padding,
                             std::int64_t capacity) const {
    placing.packed = packed;
    placing.rows = packed ? c_.total(lengths, padding) : c_.batch;
    placing.capacity = capacity;
    const auto cu = offsets(lengths, padding);
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      placing.first.push_back(packed ? cu[b] : static_cast<std::int64_t>(b));
    }
  }

  // Pages in random order, one of them in nobody's use.
  void place_pages(Placing& placing) {
    placing.page_size = c_.page_size;
    std::vector<std::int64_t> counts;
    for (std::int64_t len : c_.len_k) counts.push_back((len + c_.page_size - 1) / c_.page_size);
    placing.rows = std::accumulate(counts.begin(), counts.end(), std::int64_t{1});
    std::vector<std::int32_t> free(static_cast<std::size_t>(placing.rows));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random_);
    for (std::int64_t count : counts) {
      placing.pages.emplace_back(free.end() - count, free.end());
      free.resize(free.size() - static_cast<std::size_t>(count));
    }
  }

  void add_sequences() {
    Sequences& seq = args_.seq;
    const auto lengths = [&](const std::vector<std::int64_t>& list) {
      return arena_.copy(std::vector<std::int32_t>(list.begin(), list.end()), {c_.batch});
    };
    if (c_.packed_q) {
      seq.cu_seqlens_q = arena_.copy(offsets(c_.len_q, c_.padding_q), {c_.batch + 1});
      if (c_.max_len) seq.max_len_q = c_.capacity_q();
    }
    if (c_.packed_k) {
      seq.cu_seqlens_k = arena_.copy(offsets(c_.len_k, c_.padding_k), {c_.batch + 1});
      if (c_.max_len) seq.max_len_k = c_.capacity_k();
    }
    if (c_.padding_q > 0) seq.seqused_q = lengths(c_.len_q);
    if (c_.padding_k > 0 || c_.page_size > 0) seq.seqused_k = lengths(c_.len_k);
    if (c_.page_size > 0) {
      args_.cache.page_table = arena_.make(Dtype::i32, {c_.batch, c_.pages_per_sequence()});
      for (std::size_t b = 0; b < request_.kv.pages.size(); ++b) {
        std::copy(request_.kv.pages[b].begin(), request_.kv.pages[b].end(),
                  static_cast<std::int32_t*>(args_.cache.page_table.data) +
                      static_cast<std::int64_t>(b) * c_.pages_per_sequence());
      }
    }
    if (c_.batch_idx) {
      args_.cache.batch_idx =
          arena_.copy(std::vector<std::int32_t>(request_.kv.first.begin(), request_.kv.first.end()),
                      {c_.batch});
    }
  }

  void add_scores() {
    args_.scale = c_.scale;
    args_.softcap = c_.softcap;
    args_.mask = c_.mask;
    args_.num_splits = c_.splits;
    args_.fast = c_.fast;
    args_.accumulation = c_.accumulation;
    if (c_.sinks) args_.sinks = arena_.copy(data_.sinks, {c_.heads_q});
    if (!c_.dense) return;
    args_.mask.dense =
        arena_.make(*c_.dense, {c_.dense_batch ? c_.batch : 1, c_.dense_heads ? c_.heads_q : 1,
                                c_.capacity_q(), c_.capacity_k()});
    for (std::size_t n = 0; n < data_.dense.size(); ++n) {
      std::byte* entry = args_.mask.dense.at(static_cast<std::int64_t>(n));
      if (*c_.dense == Dtype::boolean) {
        *entry = static_cast<std::byte>(data_.dense[n] == 0.0f);
      } else {
        store_float(*c_.dense, entry, data_.dense[n]);
      }
    }
  }

  void add_rope() {
    Rope& rope = request_.options.rope;
    rope = c_.rope.tables(arena_, 64 + std::max(c_.capacity_q(), c_.capacity_k()));
    if (!c_.rope.positions) return;
    rope.positions = positions_of(&SequenceData::positions_q, request_.q);
    request_.options.positions_k = positions_of(&SequenceData::positions_k, request_.kv);
  }

  Tensor positions_of(std::vector<std::int32_t> SequenceData::*member, const Placing& placing) {
    const Tensor tensor = placing.packed ? arena_.make(Dtype::i32, {placing.rows})
                                         : arena_.make(Dtype::i32, {c_.batch, placing.capacity});
    std::fill_n(static_cast<std::int32_t*>(tensor.data), tensor.numel(), 0);
    for (std::size_t b = 0; b < data_.sequences.size(); ++b) {
      const auto& positions = data_.sequences[b].*member;
      std::copy(positions.begin(), positions.end(),
                static_cast<std::int32_t*>(tensor.data) + placing.first[b] * tensor.stride(0));
    }
    return tensor;
  }

  // An operand of all sequences as f32 [total, heads, dim].
  Tensor packed(Tokens SequenceData::*member) {
    const Tokens& first = data_.sequences.front().*member;
    std::vector<float> values;
    for (const SequenceData& s : data_.sequences) {
      const std::vector<float>& more = (s.*member).values;
      values.insert(values.end(), more.begin(), more.end());
    }
    const auto total = static_cast<std::int64_t>(values.size()) / (first.heads * first.dim);
    return arena_.copy(values, {total, first.heads, first.dim});
  }

  Tensor cu(const std::vector<std::int64_t>& lengths) {
    return arena_.copy(offsets(lengths, 0), {c_.batch + 1});
  }

  Tensor mean_of(Tokens SequenceData::*member, bool hadamard) {
    const Tokens& first = data_.sequences.front().*member;
    const Tensor mean = arena_.make(Dtype::f32, {c_.batch, first.heads, first.dim});
    channel_mean({.x = packed(member),
                  .mean = mean,
                  .hadamard = hadamard,
                  .cu_seqlens = cu(member == &SequenceData::q ? c_.len_q : c_.len_k),
                  .backend = "reference"});
    return mean;
  }

  Stored store(const Operand& operand, const std::vector<std::int64_t>& lengths,
               Tokens SequenceData::*member, QuantizeArgs how) {
    how.x = packed(member);
    how.cu_seqlens = cu(lengths);
    const std::int64_t total = how.x.size(0), heads = how.x.size(1), dim = how.x.size(2);
    Stored stored;
    stored.data = how.out = arena_.make(operand.dtype, {total, heads, dim});
    if (operand.absent) {
      for (std::int64_t n = 0; n < how.x.numel(); ++n) {
        *reinterpret_cast<e4m3*>(stored.data.at(n)) =
            e4m3(*reinterpret_cast<const float*>(how.x.at(n)));
      }
      return stored;
    }
    if (dtype_size(operand.dtype) == 1) how.descale = new_scale(operand, lengths, heads, total);
    if (c_.v_lo && member == &SequenceData::v) {
      stored.lo = how.out_lo = arena_.make(Dtype::e4m3, {total, heads, dim});
    }
    if (how.dot_with) {
      stored.dot = how.dot = arena_.make(Dtype::f32, {c_.heads_q, total});
    }
    how.backend = "reference";
    quantize(how);
    stored.scale = how.descale;
    return stored;
  }

  Scale new_scale(const Operand& operand, const std::vector<std::int64_t>& lengths,
                  std::int64_t heads, std::int64_t total) {
    if (operand.broadcast) return Scale::per_tensor(arena_.make(Dtype::f32, {1}));
    switch (operand.granularity) {
      case Granularity::tensor:
        return Scale::per_tensor(arena_.make(Dtype::f32, {1}));
      case Granularity::head:
        return Scale::per_head(arena_.make(Dtype::f32, {c_.batch, heads}));
      case Granularity::kv_head:
        return Scale::per_kv_head(arena_.make(Dtype::f32, {c_.batch, c_.heads_kv}));
      case Granularity::token:
        return Scale::per_token(arena_.make(Dtype::f32, {total, heads}));
      case Granularity::block:
        break;
    }
    const auto blocks = block_offsets(offsets(lengths, 0), operand.block);
    return Scale::per_block(arena_.make(Dtype::f32, {heads, blocks.back()}), operand.block,
                            arena_.copy(blocks, {c_.batch + 1}));
  }

  // From packed without gaps to the request's layout.
  Tensor lay_out(const Tensor& from, const std::vector<std::int64_t>& lengths,
                 const Placing& placing) {
    const std::int64_t heads = from.size(1), dim = from.size(2);
    const Tensor to = placing.make(arena_, from.dtype, heads, dim, order_);
    const auto bytes = static_cast<std::size_t>(dim * dtype_size(from.dtype));
    std::int64_t row = 0;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      for (std::int64_t t = 0; t < lengths[b]; ++t, ++row) {
        for (std::int64_t h = 0; h < heads; ++h) {
          std::memcpy(placing.at(to, b, t, h), from.at((row * heads + h) * dim), bytes);
        }
      }
    }
    return to;
  }

  Scale lay_out(const Scale& from, const Operand& operand, const std::vector<std::int64_t>& lengths,
                std::int64_t padding, const Placing& placing, std::int64_t heads) {
    if (!from) return from;
    const auto* values = static_cast<const float*>(from.values.data);
    if (operand.broadcast) {
      return Scale::per_head(Tensor(from.values.data, Dtype::f32, {c_.batch, heads}, {0, 0}));
    }
    if (operand.granularity == Granularity::token) {
      const Tensor to = placing.make_per_token(arena_, Dtype::f32, heads);
      std::int64_t row = 0;
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        for (std::int64_t t = 0; t < lengths[b]; ++t, ++row) {
          for (std::int64_t h = 0; h < heads; ++h) {
            *reinterpret_cast<float*>(placing.at(to, b, t, h)) = values[row * heads + h];
          }
        }
      }
      return Scale::per_token(to);
    }
    if (operand.granularity != Granularity::block) return from;

    const std::int64_t block = operand.block;
    const auto from_offsets = block_offsets(offsets(lengths, 0), block);
    const auto to_offsets = block_offsets(offsets(lengths, padding), block);
    const std::int64_t capacity =
        placing.page_size > 0 ? c_.capacity_k() : placing.capacity;  // of a sequence
    const Tensor to =
        placing.packed ? arena_.make(Dtype::f32, {heads, to_offsets.back()})
                       : arena_.make(Dtype::f32, {c_.batch, heads, (capacity + block - 1) / block});
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int32_t n = 0; n < from_offsets[b + 1] - from_offsets[b]; ++n) {
          const std::int64_t offset =
              placing.packed ? h * to.stride(0) + to_offsets[b] + n
                             : static_cast<std::int64_t>(b) * to.stride(0) + h * to.stride(1) + n;
          *reinterpret_cast<float*>(to.at(offset)) =
              values[h * from_offsets.back() + from_offsets[b] + n];
        }
      }
    }
    if (!placing.packed) return Scale::per_block(to, block);
    return Scale::per_block(to, block, arena_.copy(to_offsets, {c_.batch + 1}));
  }

  Tensor lay_out_bias(const Tensor& from, const std::vector<std::int64_t>& lengths,
                      const Placing& placing) {
    const std::int64_t capacity = placing.page_size > 0 ? c_.capacity_k() : placing.capacity;
    const Tensor to = placing.make_head_major(arena_, c_.batch, c_.heads_q, capacity);
    for (std::int64_t h = 0; h < c_.heads_q; ++h) {
      const auto* values = reinterpret_cast<const float*>(from.at(h * from.stride(0)));
      for (std::size_t b = 0; b < lengths.size(); ++b) {
        for (std::int64_t t = 0; t < lengths[b]; ++t) placing.head_major(to, b, h, t) = *values++;
      }
    }
    return to;
  }

  const AttentionCase& c_;
  const Data& data_;
  Request& request_;
  AttentionArgs& args_;
  Arena& arena_;
  Order order_;
  Random random_;
};

}  // namespace

void make_request(const AttentionCase& c, const Data& data, Request& request) {
  Builder(c, data, request).build();
}

}  // namespace sotto::test

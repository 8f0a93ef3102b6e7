#include "cpu/few_rows_kernels.h"

// The bf16 products and the look-ups of e4m3 need this one, which Highway leaves out otherwise.
#define HWY_WANT_AVX3_DL
#include "cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/few_rows_kernels.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/geometry.h"
#include "cpu/attention_kernels.h"
#include "cpu/few_rows_products-inl.h"
#include "cpu/math-inl.h"

SOTTO_BEFORE_FEW_ROWS_NAMESPACE();
namespace sotto::cpu::HWY_NAMESPACE {

// Rows that share what was read of K or V: with 4 keys or 4 vectors, what the registers hold.
constexpr int kRowsAtOnce = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 ? 2 : 4;
constexpr int kKeysAtOnce = 4;

// So many keys of a kv head are read before the next one's turn. Where heads lie side by side,
// memory is then read nearly in order; and what is fetched a turn ahead stays in the first-level
// cache.
std::int64_t keys_in_turn(std::int64_t kv_heads, std::int64_t dim, Dtype dtype) {
  constexpr std::int64_t kBytes = 16384;
  std::int64_t keys = kMostKeysAhead;
  while (keys > kKeysAtOnce && keys * kv_heads * dim * dtype_size(dtype) > kBytes) keys /= 2;
  return keys;
}

// f(0), …, f(n - 1) as compile-time constants: GCC then keeps arrays of vectors in registers.
template <int n, class F>
HWY_INLINE void unrolled(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f(std::integral_constant<int, i>()), ...); }
  (std::make_integer_sequence<int, n>());
}

// Calls f(std::integral_constant<int, n>) for an n of [1, kRowsAtOnce].
template <class F>
HWY_INLINE void with_row_count(std::int64_t n, F&& f) {
  if (n == 1) return f(std::integral_constant<int, 1>());
  if (n == 2) return f(std::integral_constant<int, 2>());
  if constexpr (kRowsAtOnce > 2) {
    if (n == 3) return f(std::integral_constant<int, 3>());
    f(std::integral_constant<int, 4>());
  }
}

// out[i] = the sum over all lanes of x[i].
HWY_INLINE void store_lane_sums(const Vec (&x)[4], float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < 4; ++i) out[i] = hn::GetLane(x[i]);
#else
  const F32 d;
  const hn::Repartition<double, F32> pairs;
  const auto fold = [&](Vec a, Vec b) {  // of each block of 4 lanes: a a b b → a b a b
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  };
  const auto ab = hn::BitCast(pairs, fold(x[0], x[1]));
  const auto cd = hn::BitCast(pairs, fold(x[2], x[3]));
  Vec sum = hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, cd)),
                    hn::BitCast(d, hn::InterleaveUpper(pairs, ab, cd)));
  // Then the blocks.
#if HWY_MAX_BYTES == 16
  hn::StoreU(sum, d, out);
#else
  sum = hn::Add(sum, hn::SwapAdjacentBlocks(sum));
  const hn::Half<F32> half;
#if HWY_MAX_BYTES == 32
  hn::StoreU(hn::LowerHalf(half, sum), half, out);
#else
  const auto halves = hn::Add(hn::LowerHalf(half, sum), hn::UpperHalf(half, sum));
  const hn::Half<decltype(half)> quarter;
  hn::StoreU(hn::LowerHalf(quarter, halves), quarter, out);
#endif
#endif
#endif
}

// Lines of memory from `in` on, for the keys to come.
template <std::int64_t kBytes>
HWY_INLINE void fetch(const std::byte* in) {
  for (std::int64_t i = 0; i < kBytes; i += 64) hwy::Prefetch(in + i);
}

// Some keys of a tile and a kv head.
struct KeyRows {
  const std::byte* const* rows;  // FewRowsTile::k or v
  std::int64_t begin, end;
  std::int64_t head_offset;  // bytes
  std::int64_t ahead;        // the key so much further on is fetched beside each
};

// scores[row][j] = q·k of the keys, from a multiple of kKeysAtOnce on and up to one.
template <class Products, int kRows>
HWY_INLINE void score_keys(const KeyRows keys, std::int64_t dim, const std::byte* q,
                           std::int64_t q_row, float* scores) {
  using Key = typename Products::Key;
  using Number = typename Products::Number;
  constexpr int kVecs = Products::kVecs;
  constexpr std::int64_t kSize = sizeof(Key);
  for (std::int64_t j = keys.begin / kKeysAtOnce * kKeysAtOnce; j < keys.end; j += kKeysAtOnce) {
    const Key* rows[kKeysAtOnce];
    unrolled<kKeysAtOnce>([&](auto key) {
      rows[key] = reinterpret_cast<const Key*>(keys.rows[j + key] + keys.head_offset);
    });
    Vec sums[kRows][kKeysAtOnce];
    unrolled<kRows>([&](auto row) {
      unrolled<kKeysAtOnce>([&](auto key) { sums[row][key] = hn::Zero(F32()); });
    });
    for (std::int64_t i = 0; i < dim; i += Products::kDims) {
      typename Products::Operand k[kKeysAtOnce][kVecs];
      unrolled<kKeysAtOnce>([&](auto key) {
        Products::load_key(rows[key] + i, dim - i, k[key]);
        fetch<Products::kDims * kSize>(keys.rows[j + key + keys.ahead] + keys.head_offset +
                                       i * kSize);
      });
      unrolled<kVecs>([&](auto v) {
        unrolled<kRows>([&](auto row) {
          const Number* numbers = reinterpret_cast<const Number*>(q + row * q_row);
          const auto x = Products::load_query(numbers + i + v * (Products::kDims / kVecs));
          unrolled<kKeysAtOnce>([&](auto key) {
            sums[row][key] = Products::multiply_add(x, k[key][v], sums[row][key]);
          });
        });
      });
    }
    unrolled<kRows>([&](auto row) { store_lane_sums(sums[row], scores + row * kKeyTile + j); });
  }
}

// o[row][channel … + kBlocks blocks) += Σ_j p[row][j] · v_j
template <class Values, int kRows, int kBlocks>
HWY_INLINE void add_channels(const KeyRows keys, std::int64_t channel, std::int64_t dim,
                             const float* p, float* o, std::int64_t o_row) {
  using Value = typename Values::Value;
  constexpr int kVecs = Values::kVecs, kAll = kBlocks * kVecs;
  constexpr std::int64_t kSize = sizeof(Value);
  const F32 d;
  const std::int64_t offset = keys.head_offset + channel * kSize;
  Vec sums[kRows][kAll];
  unrolled<kRows>([&](auto row) {
    unrolled<kAll>([&](auto v) { sums[row][v] = hn::Load(d, o + row * o_row + v * kLanes); });
  });
  for (std::int64_t j = keys.begin / Values::kKeys * Values::kKeys; j < keys.end;
       j += Values::kKeys) {
    // A pair that is cut has a weight of 0: the other key stands in for the hidden one, which may
    // be NaN.
    const Value* in[Values::kKeys];
    unrolled<Values::kKeys>([&](auto key) {
      const std::int64_t shown = std::clamp(j + key, keys.begin, keys.end - 1);
      in[key] = reinterpret_cast<const Value*>(keys.rows[shown] + offset);
      fetch<kBlocks * Values::kDims * kSize>(keys.rows[shown + keys.ahead] + offset);
    });
    typename Values::Operand x[kBlocks][kVecs];
    unrolled<kBlocks>([&](auto b) {
      constexpr std::int64_t kFirst = b * Values::kDims;
      const Value* block[Values::kKeys];
      unrolled<Values::kKeys>([&](auto key) { block[key] = in[key] + kFirst; });
      Values::load_values(block, dim - channel - kFirst, x[b]);
    });
    unrolled<kRows>([&](auto row) {
      const auto* weights = reinterpret_cast<const typename Values::Weight*>(p + row * kKeyTile);
      const auto weight = Values::load_weights(weights + j);
      unrolled<kAll>([&](auto v) {
        sums[row][v] = Values::multiply_add(weight, x[v / kVecs][v % kVecs], sums[row][v]);
      });
    });
  }
  unrolled<kRows>([&](auto row) {
    unrolled<kAll>([&](auto v) { hn::Store(sums[row][v], d, o + row * o_row + v * kLanes); });
  });
}

// The same for all channels.
template <class Values, int kRows>
HWY_INLINE void add_values(const KeyRows& keys, std::int64_t dim, const float* p, float* o,
                           std::int64_t o_row) {
  constexpr int kBlocks = 4 / Values::kVecs;
  std::int64_t i = 0;
  for (; i + kBlocks * Values::kDims <= dim; i += kBlocks * Values::kDims) {
    add_channels<Values, kRows, kBlocks>(keys, i, dim, p, o + i, o_row);
  }
  for (; i < dim; i += Values::kDims) {
    add_channels<Values, kRows, 1>(keys, i, dim, p, o + i, o_row);
  }
}

class FewRowsStep {
 public:
  FewRowsStep(const Problem& problem, const FewRowsTile& tile, const FewRowsBlock& block)
      : problem_(problem), tile_(tile), block_(block), format_(few_rows_format(problem)) {}

  void run() {
    with_products(problem_, [&]<class Products>(Products) { score_tile<Products>(); });
    // Row by row in two rounds: a row's maximum, which takes long, is ready when it is wanted.
    for_each_row([&](std::int64_t head, std::int64_t row) { finish_scores(head, row); });
    with_values(problem_, [&]<class Values>(Values) {
      for_each_row([&](std::int64_t head, std::int64_t row) {
        if (problem_.p_e4m3) {
          exponentiate<Values, true>(head, row);
        } else {
          exponentiate<Values, false>(head, row);
        }
      });
      add_tile<Values>();
    });
  }

 private:
  // Calls f(head, keys) for all keys of the tile, turn by turn.
  template <class F>
  HWY_INLINE void in_turns(const std::byte* const* rows, std::int64_t head_stride, std::int64_t dim,
                           Dtype dtype, F&& f) const {
    const std::int64_t turn = keys_in_turn(block_.kv_heads, dim, dtype);
    for (std::int64_t j = tile_.begin / turn * turn; j < tile_.end; j += turn) {
      for (std::int64_t head = 0; head < block_.kv_heads; ++head) {
        f(head, KeyRows{.rows = rows,
                        .begin = std::max(j, tile_.begin),
                        .end = std::min(j + turn, tile_.end),
                        .head_offset = head * head_stride,
                        .ahead = turn});
      }
    }
  }

  template <class Products>
  void score_tile() {
    in_turns(
        tile_.k, tile_.k_head_stride, problem_.dim_qk, problem_.dtype_k,
        [&](std::int64_t head, const KeyRows& keys) {
          for (std::int64_t row = 0; row < block_.rows; row += kRowsAtOnce) {
            with_row_count(std::min<std::int64_t>(block_.rows - row, kRowsAtOnce), [&](auto n) {
              const std::int64_t first = head * block_.rows + row;
              score_keys<Products, n>(keys, problem_.dim_qk, block_.q + first * format_.q_row,
                                      format_.q_row, block_.scores + first * kKeyTile);
            });
          }
        });
  }

  // From q·k to z, with the row's new maximum and what that makes of earlier sums.
  HWY_INLINE void finish_scores(std::int64_t head, std::int64_t row) {
    const std::int64_t r = head * block_.rows + row;
    const TileRange seen = tile_.seen[row];
    const float* k_scale = tile_.k_scale + head * kKeyTile;
    float* scores = block_.scores + r * kKeyTile;
    const Vec q_scale = hn::Set(d_, block_.q_scale[r]);
    const Vec bias = hn::Set(d_, block_.row_bias != nullptr ? block_.row_bias[r] : 0.0f);
    const float cap = block_.cap;
    Vec largest = hn::Set(d_, -kInfinity);
    for (std::int64_t j = seen.begin / kLanes * kLanes; j < seen.end; j += kLanes) {
      const Vec dots = hn::Mul(hn::Load(d_, scores + j), hn::Load(d_, k_scale + j));
      Vec z = bounded_score(hn::Add(hn::Mul(dots, q_scale), bias));
      if (cap > 0.0f) z = soft_cap(z, cap);
      z = hide(z, j, seen);
      hn::Store(z, d_, scores + j);
      largest = hn::Max(largest, z);
    }
    const float before = block_.max[r];
    const float now = std::max(before, hn::GetLane(hn::MaxOfLanes(d_, largest)));
    block_.max[r] = now;
    const Vec change = hn::Sub(hn::Set(d_, before), hn::Set(d_, finite_max(r)));
    block_.rescale[r] = hn::GetLane(exp2_negative<6, 0>(change));
  }

  // From z to P, relative to the maximum and times V's scale; in place.
  template <class Values, bool kE4m3>
  HWY_INLINE void exponentiate(std::int64_t head, std::int64_t row) {
    constexpr int kBias = kE4m3 ? kE4m3Bias : 0;
    constexpr int kDegree = kE4m3 ? 4 : 6;
    const std::int64_t r = head * block_.rows + row;
    const TileRange seen = tile_.seen[row];
    const float* v_scale = tile_.v_scale + head * kKeyTile;
    const Vec max = hn::Set(d_, finite_max(r));
    const float* scores = block_.scores + r * kKeyTile;
    auto* weights = reinterpret_cast<typename Values::Weight*>(block_.scores + r * kKeyTile);
    Vec sum = hn::Zero(d_), exact_sum = hn::Zero(d_);
    for (std::int64_t j = seen.begin / kLanes * kLanes; j < seen.end; j += kLanes) {
      Vec p = exp2_negative<kDegree, kBias>(hn::Sub(hn::Load(d_, scores + j), max));
      exact_sum = hn::Add(exact_sum, p);
      if constexpr (kE4m3) p = nearest_e4m3(p);
      p = Values::round(p);
      sum = hn::Add(sum, p);
      Values::store_weights(hn::Mul(p, hn::Load(d_, v_scale + j)), weights + j);
    }
    const auto add_to = [&](double& total, Vec x) {
      total = total * block_.rescale[r] + hn::GetLane(hn::SumOfLanes(d_, x));
    };
    add_to(block_.sum[r], sum);
    add_to(block_.exact_sum[r], exact_sum);
  }

  // No key seen yet: any finite maximum will do, for every P is 0.
  float finite_max(std::int64_t r) const {
    return block_.max[r] == -kInfinity ? 0.0f : block_.max[r];
  }

  // -Inf for keys of [j, j + kLanes) that are not seen.
  HWY_INLINE Vec hide(Vec z, std::int64_t j, TileRange seen) const {
    if (j >= seen.begin && j + kLanes <= seen.end) return z;
    const I32 di;
    const auto key = hn::Iota(di, static_cast<std::int32_t>(j));
    const auto shown = hn::AndNot(hn::VecFromMask(di, hn::Lt(key, hn::Set(di, seen.begin))),
                                  hn::VecFromMask(di, hn::Lt(key, hn::Set(di, seen.end))));
    return hn::IfThenElse(hn::MaskFromVec(hn::BitCast(d_, shown)), z, hn::Set(d_, -kInfinity));
  }

  template <class Values>
  void add_tile() {
    in_turns(tile_.v, tile_.v_head_stride, problem_.dim_v, problem_.dtype_v,
             [&](std::int64_t head, const KeyRows& keys) {
               for (std::int64_t row = 0; row < block_.rows;) {
                 row += add_alike<Values>(head, row, keys);
               }
             });
    // Tiles are summed apart, so that rounding errors grow with their number alone.
    for_each_row([&](std::int64_t head, std::int64_t row) {
      const std::int64_t r = head * block_.rows + row, o_row = format_.o_row;
      float* o = block_.o + r * o_row;
      float* o_tile = block_.o_tile + r * o_row;
      const Vec rescale = hn::Set(d_, block_.rescale[r]);
      const Vec scale = hn::Set(d_, tile_.v_scale_all[head]);
      for (std::int64_t i = 0; i < o_row; i += kLanes) {
        const Vec sum = hn::Mul(hn::Load(d_, o_tile + i), scale);
        hn::Store(hn::MulAdd(hn::Load(d_, o + i), rescale, sum), d_, o + i);
        hn::Store(hn::Zero(d_), d_, o_tile + i);
      }
    });
  }

  template <class F>
  HWY_INLINE void for_each_row(F&& f) const {
    for (std::int64_t head = 0; head < block_.kv_heads; ++head) {
      for (std::int64_t row = 0; row < block_.rows; ++row) f(head, row);
    }
  }

  // Rows from `row` on that see the same keys, which they alone meet: 0 · NaN of a hidden key would
  // be NaN. Returns how many.
  template <class Values>
  HWY_INLINE std::int64_t add_alike(std::int64_t head, std::int64_t row, KeyRows keys) {
    const TileRange seen = tile_.seen[row];
    std::int64_t alike = 1;
    while (alike < kRowsAtOnce && row + alike < block_.rows && tile_.seen[row + alike] == seen) {
      ++alike;
    }
    keys.begin = std::max<std::int64_t>(keys.begin, seen.begin);
    keys.end = std::min<std::int64_t>(keys.end, seen.end);
    if (keys.begin >= keys.end) return alike;
    with_row_count(alike, [&](auto n) {
      const std::int64_t first = head * block_.rows + row;
      add_values<Values, n>(keys, problem_.dim_v, block_.scores + first * kKeyTile,
                            block_.o_tile + first * format_.o_row, format_.o_row);
    });
    return alike;
  }

  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  const F32 d_;
  const Problem& problem_;
  const FewRowsTile& tile_;
  const FewRowsBlock& block_;
  const FewRowsFormat format_;
};

void AttendFewRows(const Problem& problem, const FewRowsTile& tile, const FewRowsBlock& block) {
  FewRowsStep(problem, tile, block).run();
}

FewRowsFormat FormatOf(const Problem& problem) {
  FewRowsFormat format;
  with_products(problem, [&]<class Products>(Products) {
    const std::int64_t numbers = core::ceil_div(problem.dim_qk, Products::kDims) * Products::kDims;
    format.q_row = numbers * static_cast<std::int64_t>(sizeof(typename Products::Number));
    format.q_row = core::ceil_div(format.q_row, 64) * 64;
  });
  with_values(problem, [&]<class Values>(Values) {
    const std::int64_t numbers = core::ceil_div(problem.dim_v, Values::kDims) * Values::kDims;
    format.o_row = core::ceil_div(numbers, 16) * 16;
  });
  return format;
}

// x, which is a number of type Number or NaN.
template <class Number>
Number exactly(float x) {
  if constexpr (std::is_same_v<Number, bf16>) {
    return bf16::from_bits(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16));
  } else {
    return x;
  }
}

void PackQuery(const Problem& problem, const float* in, std::byte* out) {
  std::memset(out, 0, static_cast<std::size_t>(FormatOf(problem).q_row));
  with_products(problem, [&]<class Products>(Products) {
    using Number = typename Products::Number;
    Number* numbers = reinterpret_cast<Number*>(out);
    for (std::int64_t d = 0; d < problem.dim_qk; ++d) {
      const std::int64_t within = d % Products::kDims;
      numbers[d - within + Products::place(within)] = exactly<Number>(in[d]);
    }
  });
}

void UnpackOutput(const Problem& problem, const float* in, float* out) {
  with_values(problem, [&]<class Values>(Values) {
    for (std::int64_t d = 0; d < problem.dim_v; ++d) {
      const std::int64_t within = d % Values::kDims;
      out[d] = in[d - within + Values::place(within)];
    }
  });
}

}  // namespace sotto::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sotto::cpu {

HWY_EXPORT(AttendFewRows);
HWY_EXPORT(FormatOf);
HWY_EXPORT(PackQuery);
HWY_EXPORT(UnpackOutput);

FewRowsFormat few_rows_format(const Problem& problem) {
  return HWY_DYNAMIC_DISPATCH(FormatOf)(problem);
}

void pack_query(const Problem& problem, const float* in, std::byte* out) {
  HWY_DYNAMIC_DISPATCH(PackQuery)(problem, in, out);
}

void unpack_output(const Problem& problem, const float* in, float* out) {
  HWY_DYNAMIC_DISPATCH(UnpackOutput)(problem, in, out);
}

void attend_few_rows(const Problem& problem, const FewRowsTile& tile, const FewRowsBlock& block) {
  HWY_DYNAMIC_DISPATCH(AttendFewRows)(problem, tile, block);
}

}  // namespace sotto::cpu
#endif  // HWY_ONCE

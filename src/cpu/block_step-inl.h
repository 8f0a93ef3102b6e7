// One step of flash attention, as a template over the arithmetic. Included once per SIMD target,
// inside namespace sotto::cpu::HWY_NAMESPACE (or one within) and the target's attributes, which the
// includer sets: AVX512-BF16 is none of Highway's targets.

// acc[m][v] += Σ_k a(m, k) · b[k][v]: the one micro-kernel, over words. a(m, k) = a[m · a_m + k ·
// a_k] is broadcast; b has kVecs vectors a row.
template <class Products, int kRows, int kVecs>
HWY_INLINE void multiply(const std::uint32_t* HWY_RESTRICT a, std::int64_t a_m, std::int64_t a_k,
                         const std::uint32_t* HWY_RESTRICT b, std::int64_t n,
                         typename Products::Sum (&acc)[kRows][kVecs]) {
  const U32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t k = 0; k < n; ++k) {
    hn::Vec<U32> row[kVecs];
    for (int v = 0; v < kVecs; ++v) row[v] = hn::Load(d, b + (k * kVecs + v) * lanes);
    for (int m = 0; m < kRows; ++m) {
      const auto number = hn::Set(d, a[m * a_m + k * a_k]);
      for (int v = 0; v < kVecs; ++v) acc[m][v] = Products::add(acc[m][v], row[v], number);
    }
  }
}

// Accumulator rows of the micro-kernel: kMicroRows · kVecs of them and kVecs + 1 operands have to
// fit the registers, of which AVX2 and SSE4 have 16.
constexpr int kMicroRows = (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4) ? 4 : 8;
static_assert(kKeyStep % kMicroRows == 0);

template <class Qk, class Pv, int kVecs>
class BlockStep {
 public:
  BlockStep(const TileStep& step, const KeyTile& tile, const RowBlock& block)
      : step_(step),
        tile_(tile),
        block_(block),
        p_(reinterpret_cast<std::uint32_t*>(step.scores)),
        lanes_(static_cast<std::int64_t>(hn::Lanes(d_))) {}

  void run() {
    if (is_plain()) {
      compute_scores<true>();
    } else {
      compute_scores<false>();
    }
    if (step_.p_e4m3) {
      softmax<true>();
    } else {
      softmax<false>();
    }
    add_values();
    if (tile_.v_all != nullptr) add_special_values();
  }

 private:
  std::int64_t rows() const { return kVecs * lanes_; }

  bool is_plain() const {
    return step_.row_begin == nullptr && step_.mask == nullptr && step_.row_bias == nullptr &&
           step_.key_bias == nullptr && !(step_.cap > 0.0f);
  }

  // scores = z, hidden keys -Inf; tile_max_ = their maximum.
  template <bool kPlain>
  void compute_scores() {
    const std::int64_t words = step_.dim_qk / Qk::kDepth;
    Vec q_scale[kVecs], tile_max[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      q_scale[v] = hn::Load(d_, block_.q_scale + v * lanes_);
      tile_max[v] = hn::Set(d_, -kInfinity);
    }
    for (std::int64_t j = step_.key_begin; j < step_.key_end; j += kMicroRows) {
      typename Qk::Sum acc[kMicroRows][kVecs];
      for (int m = 0; m < kMicroRows; ++m) {
        for (int v = 0; v < kVecs; ++v) acc[m][v] = Qk::start(tile_.k_start + j + m);
      }
      multiply<Qk>(tile_.k + j * words, words, 1, block_.q, words, acc);
      for (int m = 0; m < kMicroRows; ++m) {
        const Vec k_scale = hn::Set(d_, tile_.k_scale[j + m]);
        for (int v = 0; v < kVecs; ++v) {
          Vec z = hn::Mul(hn::Mul(Qk::value(acc[m][v]), k_scale), q_scale[v]);
          z = kPlain ? bounded_score(z) : finish_score(z, j + m, v * lanes_);
          hn::Store(z, d_, step_.scores + (j + m) * rows() + v * lanes_);
          tile_max[v] = hn::Max(tile_max[v], z);
        }
      }
    }
    for (int v = 0; v < kVecs; ++v) tile_max_[v] = tile_max[v];
  }

  // What is not plain about a score. The branches are the same for a whole tile.
  HWY_INLINE Vec finish_score(Vec z, std::int64_t key, std::int64_t row) const {
    if (step_.row_bias != nullptr) z = hn::Add(z, hn::Load(d_, step_.row_bias + row));
    if (step_.key_bias != nullptr) {
      z = hn::Add(z, hn::Load(d_, step_.key_bias + key * rows() + row));
    }
    z = bounded_score(z);
    if (step_.cap > 0.0f) z = soft_cap(z, step_.cap);
    if (step_.mask != nullptr) {
      const Vec mask = hn::Load(d_, step_.mask + key * rows() + row);
      const auto hidden = hn::Eq(mask, hn::Set(d_, -kInfinity));  // whatever z is: NaN, too
      z = hn::IfThenElse(hidden, mask, hn::Add(z, mask));
    }
    if (step_.row_begin != nullptr) {
      const I32 di;
      const auto j = hn::Set(di, static_cast<std::int32_t>(key));
      const auto seen =
          hn::AndNot(hn::VecFromMask(di, hn::Lt(j, hn::Load(di, step_.row_begin + row))),
                     hn::VecFromMask(di, hn::Lt(j, hn::Load(di, step_.row_end + row))));
      z = hn::IfThenElse(hn::MaskFromVec(hn::BitCast(d_, seen)), z, hn::Set(d_, -kInfinity));
    }
    return z;
  }

  // p_ = P in words, relative to the new running maximum; rescale_ = what that makes of earlier
  // sums.
  template <bool kE4m3>
  void softmax() {
    constexpr int kBias = kE4m3 ? kE4m3Bias : 0;
    constexpr int kDegree = kE4m3 ? 4 : 6;
    Vec max[kVecs], sum[kVecs], exact_sum[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const Vec before = hn::Load(d_, block_.max + v * lanes_);
      const Vec now = hn::Max(before, tile_max_[v]);
      hn::Store(now, d_, block_.max + v * lanes_);
      // No key seen yet: any finite maximum will do, for every P is 0.
      const Vec none = hn::Set(d_, -kInfinity);
      max[v] = hn::IfThenElse(hn::Eq(now, none), hn::Zero(d_), now);
      rescale_[v] = exp2_negative<6, 0>(hn::Sub(before, max[v]));
      sum[v] = exact_sum[v] = hn::Zero(d_);
    }
    // Words lie at or before the scores that they are made of.
    for (std::int64_t j = step_.key_begin; j < step_.key_end; j += Pv::kDepth) {
      for (int v = 0; v < kVecs; ++v) {
        Vec p[Pv::kDepth];
        for (int i = 0; i < Pv::kDepth; ++i) {
          const Vec z = hn::Load(d_, step_.scores + (j + i) * rows() + v * lanes_);
          p[i] = exp2_negative<kDegree, kBias>(hn::Sub(z, max[v]));
          exact_sum[v] = hn::Add(exact_sum[v], p[i]);
          if constexpr (kE4m3) p[i] = nearest_e4m3(p[i]);
        }
        const auto word = Pv::pack(p);
        hn::Store(word, du_, p_ + j / Pv::kDepth * rows() + v * lanes_);
        sum[v] = Pv::add(sum[v], word, Pv::ones());
      }
    }
    for (int v = 0; v < kVecs; ++v) {
      accumulate(block_.sum + v * lanes_, rescale_[v], sum[v]);
      accumulate(block_.exact_sum + v * lanes_, rescale_[v], exact_sum[v]);
    }
  }

  HWY_INLINE void accumulate(float* total, Vec rescale, Vec more) const {
    hn::Store(hn::MulAdd(hn::Load(d_, total), rescale, more), d_, total);
  }

  // o = o · rescale + P·V. The tile is summed apart, so that rounding errors do not grow with the
  // number of keys but with that of tiles.
  void add_values() {
    const Vec scale = hn::Set(d_, tile_.v_scale);
    const std::int64_t begin = step_.key_begin / Pv::kDepth, end = step_.key_end / Pv::kDepth;
    for (std::int64_t i = 0; i < step_.dim_v; i += kMicroRows) {
      Vec acc[kMicroRows][kVecs];
      for (auto& row : acc) {
        for (Vec& x : row) x = hn::Zero(d_);
      }
      multiply<Pv>(tile_.v + begin * step_.dim_v + i, 1, step_.dim_v, p_ + begin * rows(),
                   end - begin, acc);
      for (int m = 0; m < kMicroRows; ++m) {
        for (int v = 0; v < kVecs; ++v) {
          accumulate(block_.o + (i + m) * rows() + v * lanes_, rescale_[v],
                     hn::Mul(acc[m][v], scale));
        }
      }
    }
  }

  // NaN and Inf in V reach the rows that see their keys, and no others (0 · NaN).
  void add_special_values() {
    for (std::int64_t j = step_.key_begin; j < step_.key_end; ++j) {
      for (std::int64_t i = 0; i < step_.dim_v; ++i) {
        const float value = tile_.v_all[j * step_.dim_v + i];
        if (std::isfinite(value)) continue;
        for (std::int64_t row = 0; row < rows(); ++row) {
          if (is_seen(j, row)) block_.o[i * rows() + row] += probability(j, row) * value;
        }
      }
    }
  }

  float probability(std::int64_t key, std::int64_t row) const {
    return Pv::unpack(p_[key / Pv::kDepth * rows() + row], static_cast<int>(key % Pv::kDepth));
  }

  bool is_seen(std::int64_t key, std::int64_t row) const {
    if (step_.mask != nullptr && step_.mask[key * rows() + row] == -kInfinity) return false;
    return step_.row_begin == nullptr || (key >= step_.row_begin[row] && key < step_.row_end[row]);
  }

  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  const TileStep& step_;
  const KeyTile& tile_;
  const RowBlock& block_;
  std::uint32_t* p_;
  const F32 d_;
  const U32 du_;
  const std::int64_t lanes_;
  Vec tile_max_[kVecs], rescale_[kVecs];
};

template <class Qk, class Pv>
void step_blocks(const TileStep& step, const KeyTile& tile, const RowBlock& block) {
  if (block.rows == static_cast<std::int64_t>(hn::Lanes(F32()))) {
    BlockStep<Qk, Pv, 1>(step, tile, block).run();
  } else {
    BlockStep<Qk, Pv, 2>(step, tile, block).run();
  }
}

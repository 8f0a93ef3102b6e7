// append_kv() of every backend against its definition.
//
//   b2 n3:1 c10:0         new and cached tokens of each sequence
//   h2 d64/32             kv heads; dim of K and V
//   in=bf16 cache=e4m3/e4m3  dtypes of new tokens and of the K and V caches
//   scale=tensor|head|token|absent   of 8-bit caches; token: written
//   packed (new tokens)  paged<n>  batch_idx  bhsd, far (caches)
//   RoPE as in transforms.h; had=k|v|kv; mean
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data.h"
#include "harness.h"
#include "mirror.h"
#include "output_reader.h"
#include "rounding.h"
#include "transforms.h"

namespace sotto::test {
namespace {

// One of K and V: new tokens, cache, scale, mean, and whether it is transformed.
struct Side {
  Tensor x, cache, mean;
  Scale scale;
  std::int64_t dim = 0;
  bool rotated = false, with_hadamard = false;
};

class AppendCase {
 public:
  explicit AppendCase(const std::string& line) : random_(seed_of(line)) {
    Spec spec(line);
    batch_ = static_cast<std::int64_t>(spec.number("b", 1));
    added_ = spec.list("n", {1});
    before_ = spec.list("c", {0});
    added_.resize(static_cast<std::size_t>(batch_), added_.back());
    before_.resize(static_cast<std::size_t>(batch_), before_.back());
    heads_ = static_cast<std::int64_t>(spec.number("h", 2));
    const auto dims = spec.parts("d", "64");
    k_.dim = std::stoll(dims.front());
    v_.dim = std::stoll(dims.back());
    rope_ = RopeWords(spec, k_.dim);
    k_.rotated = rope_.present;
    const std::string had = spec.text("had", "");
    k_.with_hadamard = had.find('k') != std::string::npos;
    v_.with_hadamard = had.find('v') != std::string::npos;
    place(spec);
    add_tensors(spec);
    spec.finish();
  }

  AppendKvArgs args;

  void check() {
    check(k_);
    check(v_);
  }

 private:
  void place(Spec& spec) {
    const std::int64_t longest = *std::max_element(added_.begin(), added_.end());
    new_.packed = spec.has("packed");
    new_.capacity = longest;
    std::int64_t needed = 0;
    for (std::size_t b = 0; b < added_.size(); ++b) {
      new_.first.push_back(new_.packed ? new_.rows : static_cast<std::int64_t>(b));
      new_.rows += new_.packed ? added_[b] : 1;
      needed = std::max(needed, before_[b] + added_[b]);
    }
    if (!new_.packed) added_.assign(added_.size(), longest);
    cached_.page_size = static_cast<std::int64_t>(spec.number("paged", 0));
    cached_.capacity = needed + longest + 2;
    const bool batch_idx = spec.has("batch_idx");
    if (cached_.page_size > 0) {
      std::vector<std::int32_t> table;
      const std::int64_t pages = cached_.capacity / cached_.page_size + 1;
      cached_.rows = pages * batch_;
      std::vector<std::int32_t> order(static_cast<std::size_t>(cached_.rows));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random_);
      for (std::int64_t b = 0; b < batch_; ++b) {
        cached_.pages.emplace_back(order.begin() + b * pages, order.begin() + (b + 1) * pages);
      }
      args.page_table = arena_.copy(order, {batch_, pages});
    } else {
      cached_.rows = batch_ + (batch_idx ? 1 : 0);
      for (std::int64_t b = 0; b < batch_; ++b) {
        cached_.first.push_back(batch_idx ? batch_ - b : b);
      }
      if (batch_idx) {
        args.batch_idx = arena_.copy(
            std::vector<std::int32_t>(cached_.first.begin(), cached_.first.end()), {batch_});
      }
    }
    args.cache_seqlens =
        arena_.copy(std::vector<std::int32_t>(before_.begin(), before_.end()), {batch_});
    if (new_.packed) {
      std::vector<std::int32_t> cu(new_.first.begin(), new_.first.end());
      cu.push_back(static_cast<std::int32_t>(new_.rows));
      args.cu_seqlens = arena_.copy(cu, {batch_ + 1});
    }
  }

  void add_tensors(Spec& spec) {
    const Dtype in = dtype_named(spec.text("in", "f32"));
    const auto caches = spec.parts("cache", "f32");
    const std::string scale = spec.text("scale", "token");
    const bool mean = spec.has("mean");
    order_ = order_of(spec);
    for (Side* side : {&k_, &v_}) {
      side->x = new_.make(arena_, in, heads_, side->dim);
      for (std::size_t b = 0; b < added_.size(); ++b) {
        for (std::int64_t t = 0; t < added_[b]; ++t) {
          for (std::int64_t h = 0; h < heads_; ++h) fill_row(*side, b, t, h);
        }
      }
      const Dtype dtype = dtype_named(side == &k_ ? caches.front() : caches.back());
      side->cache = cached_.make(arena_, dtype, heads_, side->dim, order_);
      if (dtype_size(dtype) == 1) side->scale = new_scale(scale);
      if (mean) side->mean = random_table({batch_, heads_, side->dim});
    }
    args.k = k_.x;
    args.v = v_.x;
    args.k_cache = k_.cache;
    args.v_cache = v_.cache;
    args.k_descale = k_.scale;
    args.v_descale = v_.scale;
    args.k_mean = k_.mean;
    args.v_mean = v_.mean;
    args.hadamard_k = k_.with_hadamard;
    args.hadamard_v = v_.with_hadamard;
    args.rope = rope_.tables(arena_, cached_.capacity + 50);
    if (!rope_.positions) return;
    const Tensor table = new_.packed ? arena_.make(Dtype::i32, {new_.rows})
                                     : arena_.make(Dtype::i32, {batch_, new_.capacity});
    for (std::int64_t n = 0; n < table.numel(); ++n) {
      static_cast<std::int32_t*>(table.data)[n] = static_cast<std::int32_t>(random_() % 50);
    }
    args.rope.positions = table;
  }

  void fill_row(Side& side, std::size_t b, std::int64_t t, std::int64_t h) {
    std::vector<float> values(static_cast<std::size_t>(side.dim));
    fill_normal(values, random_);
    std::byte* to = new_.at(side.x, b, t, h);
    for (float value : values) {
      store_float(side.x.dtype, to, value);
      to += dtype_size(side.x.dtype);
    }
  }

  Tensor random_table(const std::vector<std::int64_t>& shape) {
    std::int64_t size = 1;
    for (std::int64_t n : shape) size *= n;
    std::vector<float> values(static_cast<std::size_t>(size));
    fill_normal(values, random_);
    return arena_.copy(values, shape);
  }

  // Given scales lie around those that just fit: some values saturate.
  Scale new_scale(const std::string& name) {
    std::uniform_real_distribution<float> around(0.005f, 0.04f);
    if (name == "absent") return {};
    if (name == "token") {
      return Scale::per_token(cached_.make_per_token(arena_, Dtype::f32, heads_));
    }
    std::vector<float> values(name == "tensor" ? 1 : static_cast<std::size_t>(batch_ * heads_));
    for (float& value : values) value = around(random_);
    if (name == "tensor") return Scale::per_tensor(arena_.copy(values, {1}));
    return Scale::per_head(arena_.copy(values, {batch_, heads_}));
  }

  std::vector<double> expected_row(const Side& side, std::size_t b, std::int64_t t,
                                   std::int64_t h) const {
    const std::byte* from = new_.at(side.x, b, t, h);
    std::vector<double> y;
    for (std::int64_t d = 0; d < side.dim; ++d) {
      y.push_back(static_cast<double>(load_float(side.x.dtype, from)));
      from += dtype_size(side.x.dtype);
    }
    if (side.rotated) {
      const Tensor& table = args.rope.positions;
      const std::int64_t position =
          table ? static_cast<const std::int32_t*>(table.data)[new_.first[b] * table.stride(0) + t]
                : before_[b] + t;
      rope_.rotate(y, position);
    }
    if (side.with_hadamard) y = hadamard(y);
    for (std::size_t d = 0; side.mean && d < y.size(); ++d) {
      y[d] -= static_cast<double>(static_cast<const float*>(
          side.mean.data)[(static_cast<std::int64_t>(b) * heads_ + h) * side.dim +
                          static_cast<std::int64_t>(d)]);
    }
    return y;
  }

  float scale_of(const Side& side, std::size_t b, std::int64_t position, std::int64_t h) const {
    if (!side.scale) return 1.0f;
    const auto* values = static_cast<const float*>(side.scale.values.data);
    switch (side.scale.granularity) {
      case Granularity::tensor:
        return values[0];
      case Granularity::head:
        return values[static_cast<std::int64_t>(b) * heads_ + h];
      default:
        return *reinterpret_cast<const float*>(cached_.at(side.scale.values, b, position, h));
    }
  }

  void check(const Side& side) {
    const bool tokens = side.scale && side.scale.granularity == Granularity::token;
    for (std::size_t b = 0; b < added_.size(); ++b) {
      const std::int64_t end = before_[b] + added_[b];
      for (std::int64_t position = 0; position < cached_.capacity; ++position) {
        for (std::int64_t h = 0; h < heads_; ++h) {
          const std::byte* row = cached_.at(side.cache, b, position, h);
          if (position < before_[b] || position >= end) {
            ASSERT_TRUE(is_untouched(row, side.dim * dtype_size(side.cache.dtype)))
                << "position " << position << " of sequence " << b << " must stay as it was";
            continue;
          }
          const std::vector<double> y = expected_row(side, b, position - before_[b], h);
          double amax = 0;
          for (double value : y) amax = std::max(amax, std::fabs(value));
          const float scale = scale_of(side, b, position, h);
          if (tokens) {
            const double fitting = amax / (side.cache.dtype == Dtype::i8 ? 127.0 : 448.0);
            ASSERT_NEAR(static_cast<double>(scale), fitting, fitting * 2e-6);
          }
          for (std::size_t d = 0; d < y.size(); ++d) {
            const float stored = load_float(side.cache.dtype, row);
            ASSERT_TRUE(is_rounded(y[d], stored, 0, side.cache.dtype, scale, false, 1e-6 * amax))
                << "position " << position << " of sequence " << b << ": " << y[d] << " became "
                << stored << " at scale " << scale;
            row += dtype_size(side.cache.dtype);
          }
        }
      }
    }
  }

  bool is_untouched(const std::byte* data, std::int64_t bytes) const {
    const std::byte untouched = Arena::untouched(order_);
    return std::all_of(data, data + bytes, [=](std::byte x) { return x == untouched; });
  }

  Random random_;
  Arena arena_;
  std::int64_t batch_, heads_;
  std::vector<std::int64_t> added_, before_;
  RopeWords rope_;
  Side k_, v_;
  Placing new_, cached_;
  Order order_;
};

void test_append(const std::string& line, const std::string& backend) {
  AppendCase c(line);
  c.args.backend = backend;
  Mirror mirror(backend);
  const AppendKvArgs placed = mirror.place(c.args);
  if (!accepts(backend, line, explain(placed))) return;
  append_kv(placed);
  mirror.read_back();
  c.check();
}

}  // namespace

void register_append_cases() {
  register_family(
      "Append",
      {
          "b3 n1 c0:7:130 in={f32,bf16,f16} cache={f32,bf16,f16,e4m3,i8/e4m3} {paged16,}",
          "b3 n5:0:40 c10:3:0 packed in=bf16 cache={bf16,e4m3,i8/e4m3} "
          "{paged1,paged3,batch_idx,bhsd,far,paged3 far}",
          "b2 n4 c5:0 in=bf16 cache={e4m3,i8/e4m3} scale={tensor,head} {had=kv,mean,paged16}",
          "b2 n4 c5:0 in=f32 cache=e4m3 scale=absent {packed,}",
          "b2 n3 c20:4 d{64,96/64,192/128} in=bf16 cache={bf16,e4m3,i8/e4m3} "
          "{rope=halves,rope=interleaved:32 had=k,rope=halves positions had=kv mean,rope=halves "
          "rope_full had=v}",
          "b2 n9:2 c20:4 packed paged8 in=bf16 cache=i8/e4m3 rope=halves had=kv mean {positions,}",
      },
      test_append);
}

}  // namespace sotto::test

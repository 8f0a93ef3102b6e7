// sdpa()'s quantiser on the GPU against quantize() and channel_mean() of backend cpu.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/geometry.h"
#include "cuda/error.h"
#include "cuda/quantize/qkv.h"
#include "device_tensors.h"

namespace sotto::test {
namespace {

enum class RopeForm { none, halves, interleaved, partial, per_channel };

struct QkvCase {
  std::string name;
  std::string recipe = "int8qk";
  std::vector<int> lens_q, lens_k;  // packed where there are several or `packed` says so
  bool packed = false;
  int heads_q = 2, heads_kv = 1, dim_qk = 128, dim_v = 128;
  Dtype dtype = Dtype::bf16;
  RopeForm rope = RopeForm::none;
  bool positions = false;
  bool bottom_right = false;
  bool lse = false;
  bool seqused = false;
  bool special = false;  // NaN and Inf among the values
  int padding = 0;       // elements between rows
  int batch = 1;         // dense
};

std::ostream& operator<<(std::ostream& out, const QkvCase& c) { return out << c.name; }

// One sequence's rows of Q, K or V as [1, len, heads, dim] on the host.
struct HostRows {
  std::vector<float> values;
};

class QkvTest : public testing::TestWithParam<QkvCase> {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      cudaGetLastError();
      GTEST_SKIP() << "no device";
    }
  }
};

int magnitude_order(std::uint8_t code) { return code & 0x80 ? -(code & 0x7f) : code; }

// Code of a key in V's layout, within its 128-key block.
int place_of_key(int key) {
  const int b = key / 8 % 2, t = key / 2 % 4, e = key % 2;
  return key / 16 * 16 + 4 * t + 2 * b + e;
}

class Checker {
 public:
  explicit Checker(const QkvCase& c) : c_(c), random_(std::hash<std::string>()(c.name)) {}

  void check() {
    make_inputs();
    run();
    if (testing::Test::HasFatalFailure()) return;
    for (int b = 0; b < batch(); ++b) check_sequence(b);
    EXPECT_EQ(counter_.host<std::uint32_t>()[0], 0u);
  }

 private:
  int batch() const { return c_.packed ? static_cast<int>(c_.lens_q.size()) : c_.batch; }
  int len(bool q, int b) const {
    const auto& lens = q ? c_.lens_q : c_.lens_k;
    return lens[c_.packed ? static_cast<std::size_t>(b) : 0];
  }
  int first(bool q, int b) const {
    const auto& lens = q ? c_.lens_q : c_.lens_k;
    return c_.packed ? std::accumulate(lens.begin(), lens.begin() + b, 0) : 0;
  }
  int used(bool q, int b) const { return c_.seqused ? len(q, b) * 2 / 3 : len(q, b); }

  DeviceTensor make(bool q, int heads, int dim, float bias) {
    const int tokens = c_.packed ? first(q, batch()) : len(q, 0);
    std::vector<std::int64_t> shape{tokens, heads, dim};
    if (!c_.packed) shape.insert(shape.begin(), c_.batch);
    DeviceTensor tensor(c_.dtype, shape, c_.padding);
    std::normal_distribution<float> normal;
    std::vector<float> biases(static_cast<std::size_t>(heads * dim));
    for (float& x : biases) x = bias * normal(random_);
    tensor.fill([&](std::int64_t i) {
      if (c_.special && random_() % 997 == 0) {
        const float values[] = {std::nanf(""), std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity()};
        return values[random_() % 3];
      }
      return normal(random_) + biases[static_cast<std::size_t>(i % (heads * dim))];
    });
    return tensor;
  }

  DeviceTensor make_offsets(bool q) {
    std::vector<std::int32_t> offsets;
    for (int b = 0; b <= batch(); ++b) offsets.push_back(first(q, b));
    return DeviceTensor(offsets);
  }
  DeviceTensor make_used(bool q) {
    std::vector<std::int32_t> all;
    for (int b = 0; b < batch(); ++b) all.push_back(used(q, b));
    return DeviceTensor(all);
  }

  void make_inputs() {
    q_ = make(true, c_.heads_q, c_.dim_qk, 0.5f);
    k_ = make(false, c_.heads_kv, c_.dim_qk, 2.0f);
    v_ = make(false, c_.heads_kv, c_.dim_v, 1.0f);
    args_.q = q_.device();
    args_.k = k_.device();
    args_.v = v_.device();
    std::vector<std::int64_t> shape(q_.shape());
    shape.back() = c_.dim_v;
    out_ = DeviceTensor(Dtype::bf16, shape);
    args_.out = out_.device();
    if (c_.bottom_right) args_.mask = Mask::causal_bottom_right();
    if (c_.lse) {
      const std::int64_t tokens = q_.shape()[c_.packed ? 0 : 1];
      lse_ = c_.packed ? DeviceTensor(Dtype::f32, {c_.heads_q, tokens})
                       : DeviceTensor(Dtype::f32, {c_.batch, c_.heads_q, tokens});
      args_.lse = lse_.device();
    }
    if (c_.packed) {
      cu_q_ = make_offsets(true);
      cu_k_ = make_offsets(false);
      args_.seq.cu_seqlens_q = cu_q_.device();
      args_.seq.cu_seqlens_k = cu_k_.device();
    }
    if (c_.seqused) {
      used_q_ = make_used(true);
      used_k_ = make_used(false);
      args_.seq.seqused_q = used_q_.device();
      args_.seq.seqused_k = used_k_.device();
    }
    options_.recipe = Recipe::parse(c_.recipe);
    if (c_.rope != RopeForm::none) make_rope();
  }

  void make_rope() {
    rotary_dim_ = c_.rope == RopeForm::partial ? c_.dim_qk / 2 + 2 : c_.dim_qk;
    const int width = c_.rope == RopeForm::per_channel ? rotary_dim_ : rotary_dim_ / 2;
    constexpr int kPositions = 2000;
    cos_ = DeviceTensor(Dtype::f32, {kPositions, width});
    sin_ = DeviceTensor(Dtype::f32, {kPositions, width});
    const auto angle = [&](std::int64_t i) {
      const double pair = static_cast<double>(i % width % (rotary_dim_ / 2));
      return static_cast<double>(i / width) * std::pow(10000.0, -2.0 * pair / rotary_dim_);
    };
    cos_.fill([&](std::int64_t i) { return static_cast<float>(std::cos(angle(i))); });
    sin_.fill([&](std::int64_t i) { return static_cast<float>(std::sin(angle(i))); });
    Rope& rope = options_.rope;
    rope.cos = cos_.device();
    rope.sin = sin_.device();
    rope.interleaved = c_.rope == RopeForm::interleaved;
    if (rotary_dim_ != c_.dim_qk) rope.rotary_dim = rotary_dim_;
    if (!c_.positions) return;
    const auto make_positions = [&](bool q) {
      const int count = c_.packed ? first(q, batch()) : c_.batch * len(q, 0);
      std::vector<std::int32_t> all;
      for (int i = 0; i < count; ++i) all.push_back(static_cast<int>(random_() % kPositions));
      DeviceTensor tensor(all);
      if (!c_.packed) tensor.reshape({c_.batch, len(q, 0)});
      return tensor;
    };
    positions_q_ = make_positions(true);
    positions_k_ = make_positions(false);
    rope.positions = positions_q_.device();
    options_.positions_k = positions_k_.device();
  }

  void run() {
    problem_ = describe(args_);
    const Reasons reasons = cuda::refuse_qkv(args_, options_, problem_);
    ASSERT_TRUE(reasons.empty()) << reasons.front();
    const cuda::QkvQuantizer quantizer(args_, options_, problem_);
    workspace_ = DeviceTensor(Dtype::e4m3, {static_cast<std::int64_t>(quantizer.workspace_size())});
    workspace_.spoil();
    counter_ = DeviceTensor(Dtype::i32, {1});
    counter_.spoil();
    auto* data = static_cast<std::byte*>(workspace_.device().data);
    quantizer.run(args_, options_, data, static_cast<std::uint32_t*>(counter_.device().data),
                  nullptr);
    cuda::check(cudaDeviceSynchronize(), "quantiser");
    operands_ = quantizer.operands(data);
    const std::vector<std::uint8_t> once = workspace_.host<std::uint8_t>();
    quantizer.run(args_, options_, data, nullptr, nullptr);
    cuda::check(cudaDeviceSynchronize(), "quantiser");
    bytes_ = workspace_.host<std::uint8_t>();
    EXPECT_TRUE(once == bytes_) << "a second run gave other bits";
  }

  template <class T>
  T at(const Tensor& tensor, std::int64_t offset) const {
    const auto begin = static_cast<const std::uint8_t*>(tensor.data) -
                       static_cast<const std::uint8_t*>(workspace_.device().data);
    T value;
    std::memcpy(&value, bytes_.data() + begin + offset * static_cast<std::int64_t>(sizeof(T)),
                sizeof(T));
    return value;
  }
  float scale_at(const Scale& scale, int b, int head, int token, int heads) const {
    const Tensor& t = scale.values;
    switch (scale.granularity) {
      case Granularity::kv_head:
        return at<float>(t, b * t.stride(0) + head / (heads / t.size(1)) * t.stride(1));
      case Granularity::token:
        return c_.packed ? at<float>(t, (first(true, b) + token) * t.stride(0) + head * t.stride(1))
                         : at<float>(t, b * t.stride(0) + token * t.stride(1) + head * t.stride(2));
      default:
        return c_.packed
                   ? at<float>(t, head * t.stride(0) + first(false, b) / 128 + b + token / 128)
                   : at<float>(t, b * t.stride(0) + head * t.stride(1) + token / 128);
    }
  }

  // What is rounded, by backend cpu, [len, heads, dim], and as codes.
  struct Expected {
    HostTensor values, codes, scale, dot, mean;
  };
  Expected expected(const DeviceTensor& x, int b, bool q, bool k, const HostTensor& k_mean) {
    const Recipe& recipe = options_.recipe;
    const int length = used(q, b);
    const std::int64_t heads = x.shape()[x.shape().size() - 2], dim = x.shape().back();
    HostTensor rows(c_.dtype, {1, length, heads, dim});
    for (std::int64_t i = 0; i < rows.numel(); ++i) {
      const std::int64_t row = c_.packed ? first(q, b) : std::int64_t{b} * len(q, 0);
      rows.set(i, x.get(row * heads * dim + i));
    }
    QuantizeArgs args{.x = rows};
    args.backend = "cpu";
    HostTensor positions;
    const bool qk = q || k;
    if (qk && options_.rope) {
      args.rope = options_.rope;
      args.rope.cos = cos_.host_view();
      args.rope.sin = sin_.host_view();
      std::vector<std::int32_t> all;
      for (int i = 0; i < length; ++i) {
        int position = i;
        if (c_.positions) {
          const auto& given = q ? positions_q_ : positions_k_;
          position = given.host<std::int32_t>()[static_cast<std::size_t>(
              (c_.packed ? first(q, b) : b * len(q, 0)) + i)];
        } else if (q && c_.bottom_right) {
          position = std::max(0, i + used(false, b) - used(true, b));
        }
        all.push_back(position);
      }
      positions = HostTensor::ints(all);
      args.rope.positions = Tensor(positions.view().data, Dtype::i32, {1, length});
    }
    args.hadamard = qk ? recipe.hadamard == Hadamard::qk || recipe.hadamard == Hadamard::qkv
                       : recipe.hadamard == Hadamard::qkv || recipe.hadamard == Hadamard::v_only;
    Expected result;
    const bool subtract = k ? recipe.smooth_k : !q && recipe.v_mean;
    if (subtract) {
      result.mean = HostTensor(Dtype::f32, {1, heads, dim});
      ChannelMeanArgs mean{.x = rows, .mean = result.mean};
      mean.max_tokens = k ? 1024 : 0;
      mean.rope = args.rope;
      mean.hadamard = args.hadamard;
      mean.backend = "cpu";
      channel_mean(mean);
      args.mean = result.mean;
    }
    if (q && k_mean.numel() > 0 && c_.lse) {
      result.dot = HostTensor(Dtype::f32, {1, heads, length});
      args.dot_with = k_mean;
      args.dot = result.dot;
      args.dot_scale = problem_.scale;
    }
    result.values = HostTensor(Dtype::f32, {1, length, heads, dim});
    args.out = result.values;
    quantize(args);
    args.dot = args.dot_with = {};
    const bool int8 = qk && recipe.qk == QkFormat::int8;
    result.codes = HostTensor(int8 ? Dtype::i8 : Dtype::e4m3, {1, length, heads, dim});
    args.out = result.codes;
    const Granularity granularity = q ? recipe.q_scale : k ? recipe.k_scale : recipe.v_scale;
    if (granularity == Granularity::token) {
      result.scale = HostTensor(Dtype::f32, {1, length, heads});
      args.descale = Scale::per_token(result.scale);
    } else if (granularity == Granularity::block) {
      result.scale = HostTensor(Dtype::f32, {1, heads, (length + 127) / 128});
      args.descale = Scale::per_block(result.scale, 128);
    } else {
      result.scale = HostTensor(Dtype::f32, {1, heads});
      args.descale = Scale::per_head(result.scale);
    }
    args.power_of_two = !qk && recipe.v_scale_power_of_two;
    quantize(args);
    return result;
  }

  static float expected_scale(const Expected& e, Granularity g, int head, int token, int heads,
                              int length) {
    if (g == Granularity::token) return e.scale.get(std::int64_t{token} * heads + head);
    if (g == Granularity::block) {
      return e.scale.get(std::int64_t{head} * ((length + 127) / 128) + token / 128);
    }
    return e.scale.get(head);
  }

  void check_sequence(int b) {
    if (used(true, b) == 0 || used(false, b) == 0) return;
    const Expected k = expected(k_, b, false, true, {});
    check_rows(k, b, false);
    const Expected q = expected(q_, b, true, false, k.mean);
    check_rows(q, b, true);
    check_v(expected(v_, b, false, false, {}), b);
    if (options_.recipe.qk == QkFormat::e4m3) check_e4m3_scales(b);
  }

  void check_rows(const Expected& e, int b, bool q) {
    const Tensor& codes = q ? operands_.q : operands_.k;
    const Scale& scale = q ? operands_.q_scale : operands_.k_scale;
    const int heads = q ? c_.heads_q : c_.heads_kv, length = used(q, b);
    const bool int8 = options_.recipe.qk == QkFormat::int8;
    int off = 0, wrong = 0;
    double worst_scale = 0.0, worst_dot = 0.0;
    for (int token = 0; token < length; ++token) {
      for (int head = 0; head < heads; ++head) {
        const float s = scale_at(scale, b, head, token, heads);
        const float s_expected = expected_scale(
            e, q ? options_.recipe.q_scale : options_.recipe.k_scale, head, token, heads, length);
        if (int8) worst_scale = std::max(worst_scale, std::fabs(s / s_expected - 1.0));
        for (int d = 0; d < c_.dim_qk; ++d) {
          const std::int64_t i = (std::int64_t{token} * heads + head) * c_.dim_qk + d;
          const std::int64_t at_code =
              c_.packed
                  ? (first(q, b) + token) * codes.stride(0) + head * codes.stride(1) + d
                  : b * codes.stride(0) + token * codes.stride(1) + head * codes.stride(2) + d;
          if (int8) {
            const int difference =
                std::abs(at<std::int8_t>(codes, at_code) - static_cast<int>(e.codes.get(i)));
            off += difference > 0;
            wrong += difference > 1;
          } else {
            const float x = e.values.get(i);
            const float y =
                static_cast<float>(e4m3::from_bits(at<std::uint8_t>(codes, at_code))) * s;
            if (std::isnan(x) || std::isnan(y)) {
              wrong += std::isnan(x) != std::isnan(y);
            } else if (std::isfinite(x)) {
              wrong += std::fabs(x - y) > std::fabs(x) * 0.0626f + s * 0.001f;
            } else {
              wrong += !(std::fabs(y) > 13.9f * s && (y > 0) == (x > 0));
            }
          }
        }
        if (q && e.dot.numel() > 0) {
          const Tensor& bias = operands_.row_bias;
          const float dot =
              at<float>(bias, c_.packed ? head * bias.stride(0) + first(true, b) + token
                                        : b * bias.stride(0) + head * bias.stride(1) + token);
          const float dot_expected = e.dot.get(std::int64_t{head} * length + token);
          if (std::isfinite(dot_expected)) {
            worst_dot = std::max<double>(worst_dot, std::fabs(dot - dot_expected));
          }
        }
      }
    }
    const char* name = q ? "q" : "k";
    EXPECT_EQ(wrong, 0) << name << " of sequence " << b;
    EXPECT_LE(off, 2 + 2e-3 * length * heads * c_.dim_qk) << name << " of sequence " << b;
    EXPECT_LE(worst_scale, 2e-6) << name << " of sequence " << b;
    EXPECT_LE(worst_dot, 1e-3) << name << " of sequence " << b;
  }

  void check_v(const Expected& e, int b) {
    const Tensor& codes = operands_.v;
    const int length = used(false, b), heads = c_.heads_kv;
    const Recipe& recipe = options_.recipe;
    const bool exact =
        !recipe.v_mean && recipe.hadamard != Hadamard::qkv && recipe.hadamard != Hadamard::v_only;
    int wrong = 0, off = 0, not_zero = 0;
    for (int head = 0; head < heads; ++head) {
      for (int d = 0; d < c_.dim_v; ++d) {
        const std::int64_t row = c_.packed ? head : b * heads + head;
        const std::int64_t begin = c_.packed ? (first(false, b) / 128 + b) * 128 : 0;
        const std::int64_t place = row * codes.stride(0) + d * codes.stride(1) + begin;
        double sum = 0.0, sum_stored = 0.0;
        for (int token = 0; token < (length + 127) / 128 * 128; ++token) {
          const auto code =
              at<std::uint8_t>(codes, place + token / 128 * 128 + place_of_key(token % 128));
          if (token >= length) {
            not_zero += code != 0;
            continue;
          }
          const std::int64_t i = (std::int64_t{token} * heads + head) * c_.dim_v + d;
          const float s = scale_at(operands_.v_scale, b, head, token, heads);
          const float s_expected = expected_scale(e, recipe.v_scale, head, token, heads, length);
          const auto code_expected = e4m3(e.codes.get(i)).bits;
          sum += e.values.get(i);
          sum_stored += static_cast<float>(e4m3::from_bits(code)) * s;
          const int difference = std::abs(magnitude_order(code) - magnitude_order(code_expected));
          if ((code & 0x7f) == 0x7f && (code_expected & 0x7f) == 0x7f) continue;
          off += difference > 0;
          wrong += difference > 1 || std::fabs(s / s_expected - 1.0f) > (exact ? 0.0f : 1e-5f);
        }
        if (recipe.v_mean && !c_.special) {
          const Tensor& mean = operands_.v_mean;
          const float restored = at<float>(mean, b * mean.stride(0) + head * mean.stride(1) + d);
          const float expected_mean = e.mean.get(std::int64_t{head} * c_.dim_v + d) +
                                      static_cast<float>((sum - sum_stored) / length);
          wrong += std::fabs(restored - expected_mean) > 1e-4f;
        }
      }
    }
    EXPECT_EQ(not_zero, 0) << "v of sequence " << b;
    EXPECT_EQ(wrong, 0) << "v of sequence " << b;
    EXPECT_LE(off, exact ? 0 : 2 + 2e-3 * length * heads * c_.dim_v) << "v of sequence " << b;
  }

  void check_e4m3_scales(int b) {
    for (int head = 0; head < c_.heads_kv; ++head) {
      const double q = scale_at(operands_.q_scale, b, head, 0, c_.heads_kv);
      const double k = scale_at(operands_.k_scale, b, head, 0, c_.heads_kv);
      int exponent;
      const double fraction =
          2048 * std::frexp(q * k * problem_.scale * 1.4426950408889634, &exponent);
      EXPECT_NEAR(fraction, std::round(fraction), 1e-3);
    }
    const float limits[] = {14.0f, c_.dim_qk <= 128 ? 28.0f : 14.0f};
    for (int i = 0; i < 2; ++i) {
      const Tensor& codes = i == 0 ? operands_.q : operands_.k;
      float largest = 0.0f;
      const int tokens = used(i == 0, b), heads = i == 0 ? c_.heads_q : c_.heads_kv;
      for (int token = 0; token < tokens; ++token) {
        for (int n = 0; n < heads * c_.dim_qk; ++n) {
          const int head = n / c_.dim_qk, d = n % c_.dim_qk;
          const std::int64_t place =
              c_.packed
                  ? (first(i == 0, b) + token) * codes.stride(0) + head * codes.stride(1) + d
                  : b * codes.stride(0) + token * codes.stride(1) + head * codes.stride(2) + d;
          const float x =
              std::fabs(static_cast<float>(e4m3::from_bits(at<std::uint8_t>(codes, place))));
          if (!std::isnan(x)) largest = std::max(largest, x);
        }
      }
      EXPECT_LE(largest, limits[i]);
      EXPECT_GE(largest, i == 0 ? 13.0f : limits[i]);
    }
  }

  const QkvCase& c_;
  std::mt19937 random_;
  DeviceTensor q_, k_, v_, out_, lse_, cu_q_, cu_k_, used_q_, used_k_, cos_, sin_;
  DeviceTensor positions_q_, positions_k_, workspace_, counter_;
  AttentionArgs args_;
  SdpaOptions options_;
  Problem problem_;
  cuda::QkvOperands operands_;
  std::vector<std::uint8_t> bytes_;
  int rotary_dim_ = 0;
};

TEST_P(QkvTest, AgreesWithTheCpu) { Checker(GetParam()).check(); }

INSTANTIATE_TEST_SUITE_P(Cases, QkvTest,
                         testing::Values(QkvCase{.name = "int8", .lens_q = {300}, .lens_k = {300}},
                                         QkvCase{.name = "int8_long",
                                                 .lens_q = {200},
                                                 .lens_k = {1700},
                                                 .rope = RopeForm::halves,
                                                 .batch = 2},
                                         QkvCase{.name = "int8_rope_br",
                                                 .lens_q = {130},
                                                 .lens_k = {517},
                                                 .rope = RopeForm::halves,
                                                 .bottom_right = true,
                                                 .lse = true},
                                         QkvCase{.name = "int8_interleaved",
                                                 .lens_q = {140},
                                                 .lens_k = {140},
                                                 .heads_q = 4,
                                                 .heads_kv = 2,
                                                 .rope = RopeForm::interleaved,
                                                 .positions = true,
                                                 .lse = true},
                                         QkvCase{.name = "int8_partial",
                                                 .recipe = "int8qk+smooth_k=off",
                                                 .lens_q = {140},
                                                 .lens_k = {150},
                                                 .rope = RopeForm::partial,
                                                 .special = true},
                                         QkvCase{.name = "int8_per_channel",
                                                 .lens_q = {33},
                                                 .lens_k = {257},
                                                 .rope = RopeForm::per_channel},
                                         QkvCase{.name = "int8_64",
                                                 .lens_q = {400},
                                                 .lens_k = {400},
                                                 .heads_q = 6,
                                                 .heads_kv = 3,
                                                 .dim_qk = 64,
                                                 .dim_v = 64,
                                                 .dtype = Dtype::f16,
                                                 .rope = RopeForm::halves},
                                         QkvCase{.name = "int8_256",

                                                 .lens_q = {150},
                                                 .lens_k = {300},
                                                 .dim_qk = 256,
                                                 .dim_v = 256,
                                                 .rope = RopeForm::interleaved,
                                                 .lse = true},
                                         QkvCase{.name = "int8_packed",
                                                 .lens_q = {1, 0, 200, 129},
                                                 .lens_k = {130, 7, 0, 128},
                                                 .packed = true,
                                                 .heads_q = 4,
                                                 .heads_kv = 2,
                                                 .rope = RopeForm::halves,
                                                 .lse = true},
                                         QkvCase{.name = "int8_packed_used",
                                                 .lens_q = {100, 200},
                                                 .lens_k = {300, 20},
                                                 .packed = true,
                                                 .rope = RopeForm::halves,
                                                 .bottom_right = true,
                                                 .seqused = true},
                                         QkvCase{.name = "int8_used",
                                                 .lens_q = {300},
                                                 .lens_k = {300},
                                                 .rope = RopeForm::halves,
                                                 .seqused = true,
                                                 .batch = 2},
                                         QkvCase{.name = "int8_unaligned",
                                                 .lens_q = {65},
                                                 .lens_k = {190},
                                                 .rope = RopeForm::halves,
                                                 .padding = 3},
                                         QkvCase{.name = "int8_special",
                                                 .recipe = "int8qk+smooth_k=off",
                                                 .lens_q = {300},
                                                 .lens_k = {300},
                                                 .special = true},
                                         QkvCase{.name = "int8_80_48",
                                                 .lens_q = {100},
                                                 .lens_k = {170},
                                                 .dim_qk = 80,
                                                 .dim_v = 48,
                                                 .rope = RopeForm::halves},
                                         QkvCase{.name = "int8_v_mean",
                                                 .recipe = "int8qk+v_mean",
                                                 .lens_q = {64},
                                                 .lens_k = {700}},
                                         QkvCase{.name = "fp8",
                                                 .recipe = "fp8",
                                                 .lens_q = {300},
                                                 .lens_k = {500},
                                                 .heads_q = 4,
                                                 .heads_kv = 2,
                                                 .batch = 2},
                                         QkvCase{.name = "fp8_rope",
                                                 .recipe = "fp8",
                                                 .lens_q = {700},
                                                 .lens_k = {700},
                                                 .heads_q = 3,
                                                 .heads_kv = 3,
                                                 .dtype = Dtype::f16,
                                                 .rope = RopeForm::halves},
                                         QkvCase{.name = "fp8_special",
                                                 .recipe = "fp8",
                                                 .lens_q = {300},
                                                 .lens_k = {300},
                                                 .special = true},
                                         QkvCase{.name = "fp8_hadamard",
                                                 .recipe = "fp8-hadamard",
                                                 .lens_q = {300},
                                                 .lens_k = {2000},
                                                 .rope = RopeForm::halves,
                                                 .lse = true},
                                         QkvCase{.name = "fp8_all",
                                                 .recipe = "fp8-hadamard+hadamard=qkv+v_mean",
                                                 .lens_q = {300},
                                                 .lens_k = {900},
                                                 .heads_q = 5,
                                                 .heads_kv = 5,
                                                 .dim_qk = 64,
                                                 .dim_v = 64,
                                                 .rope = RopeForm::interleaved},
                                         QkvCase{.name = "fp8_192_128",
                                                 .recipe = "fp8",
                                                 .lens_q = {260},
                                                 .lens_k = {300},
                                                 .heads_q = 2,
                                                 .heads_kv = 2,
                                                 .dim_qk = 192,
                                                 .dim_v = 128},
                                         QkvCase{.name = "fp8_packed",
                                                 .recipe = "fp8-hadamard+v_mean",
                                                 .lens_q = {3, 300, 40},
                                                 .lens_k = {300, 5, 129},
                                                 .packed = true,
                                                 .dim_qk = 96,
                                                 .dim_v = 96,
                                                 .rope = RopeForm::halves}),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace sotto::test

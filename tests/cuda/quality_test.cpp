// What sdpa's recipes lose on the GPU, end to end from bf16, against exact attention and against
// backend `cpu` with the same recipe, whose arithmetic is the recipe's and no more.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data.h"
#include "gpu_case.h"

namespace sotto::test {
namespace {

class Quality : public OnGpu {};

std::vector<double> attend(const std::string& line, const Data& data, const std::string& backend) {
  const AttentionCase c(line);
  Request request;
  make_request(c, data, request);
  std::vector<double> o;
  for (const Rows& rows : run_plain(c, request, backend).sequences) {
    o.insert(o.end(), rows.o.begin(), rows.o.end());
  }
  return o;
}

struct Similarity {
  double db, cosine;
};

Similarity compare(const std::vector<double>& exact, const std::vector<double>& o) {
  double power = 0, error = 0, product = 0, power_of_o = 0;
  for (std::size_t n = 0; n < exact.size(); ++n) {
    power += exact[n] * exact[n];
    error += (exact[n] - o[n]) * (exact[n] - o[n]);
    product += exact[n] * o[n];
    power_of_o += o[n] * o[n];
  }
  return {10 * std::log10(power / error), product / std::sqrt(power * power_of_o)};
}

struct Measured {
  Similarity gpu, cpu;
};

// `shape` without dtypes; the data are made for it, or given.
Measured measure(const std::string& shape, const std::string& recipe, const Data& data) {
  const std::vector<double> exact = attend(shape + " in=f32", data, "cpu");
  const std::string line = fmt::format("{} in=bf16 sdpa={}", shape, recipe);
  const Measured m{.gpu = compare(exact, attend(line, data, kBackend)),
                   .cpu = compare(exact, attend(line, data, "cpu"))};
  fmt::print("{:7.2f} dB (cpu {:.2f}): {}\n", m.gpu.db, m.cpu.db, line);
  return m;
}

// Rounded to bf16, as the tensors will hold it.
Data data_of(const std::string& shape) { return make_data(AttentionCase(shape + " in=bf16")); }

template <class F>
void change(Tokens& tokens, F&& f) {
  for (std::int64_t t = 0; t < tokens.len; ++t) {
    for (std::int64_t n = 0; n < tokens.heads * tokens.dim; ++n) {
      float& x = tokens.at(t, 0)[n];
      x = rounded(f(x, t), Dtype::bf16);
    }
  }
}

TEST_F(Quality, OfNormalData) {
  const std::string shape = "b8 h16 q1024 k1024 d128";
  const Data data = data_of(shape);
  const Measured fp8 = measure(shape, "fp8", data), int8qk = measure(shape, "int8qk", data);
  EXPECT_GE(fp8.gpu.db, 25.3);
  EXPECT_GE(int8qk.gpu.db, 28.0);
  EXPECT_GE(fp8.gpu.db, fp8.cpu.db - 0.5);
  EXPECT_GE(int8qk.gpu.db, int8qk.cpu.db - 0.5);
}

TEST_F(Quality, OfOutliersBiasesAndSinks) {
  for (const char* kind : {"outliers", "k_bias", "qk_bias", "sink"}) {
    const std::string shape = fmt::format("h8 q1024 k1024 d128 data={}", kind);
    const Measured m = measure(shape, "int8qk", data_of(shape));
    EXPECT_GE(m.gpu.db, 27.5) << kind;
    EXPECT_GE(m.gpu.db, m.cpu.db - 0.5) << kind;
  }
}

TEST_F(Quality, OfAnySpreadOfTheLogits) {
  const std::string shape = "h4 q512 k1024 d128";
  for (const float spread : {0.1f, 1.0f, 3.0f, 16.0f, 200.0f}) {  // standard deviation, in nats
    for (const bool outlier_rows : {false, true}) {
      Data data = data_of(shape);
      SequenceData& s = data.sequences[0];
      for (Tokens* tokens : {&s.q, &s.k}) {
        change(*tokens, [&](float x, std::int64_t t) {
          return x * std::sqrt(spread) * (outlier_rows && t % 100 == 7 ? 10.0f : 1.0f);
        });
      }
      for (const char* recipe : {"fp8", "int8qk"}) {
        SCOPED_TRACE(fmt::format("{}, spread {}, outlier rows {}", recipe, spread, outlier_rows));
        const Measured m = measure(shape, recipe, data);
        EXPECT_TRUE(std::isfinite(m.gpu.cosine));
        EXPECT_GE(m.gpu.db, m.cpu.db - 1);
      }
    }
  }
}

// INT8 scores are in fixed point up to 500 in log2, which neither logits nor caps need to respect.
TEST_F(Quality, OfSoftcaps) {
  const std::string shape = "h4 q512 k1024 d128";
  for (const float spread : {0.01f, 3.0f, 400.0f}) {  // standard deviation, in nats
    Data data = data_of(shape);
    change(data.sequences[0].q, [&](float x, std::int64_t) { return x * spread; });
    for (const char* softcap : {"", " softcap30", " softcap1000"}) {
      for (const char* recipe : {"fp8", "int8qk"}) {
        SCOPED_TRACE(fmt::format("{}, spread {}{}", recipe, spread, softcap));
        const Measured m = measure(shape + softcap, recipe, data);
        EXPECT_GE(m.gpu.db, m.cpu.db - 1);
      }
    }
  }
}

TEST_F(Quality, OfLongContextsWhateverVsMeanIs) {
  const std::string shape = "h2/1 q128 k131072 d128";
  const Data normal = data_of(shape);
  for (const float mean : {0.0f, 0.3f, 1.0f, 3.0f, -1.0f}) {  // the last: +1, then −1 half way
    Data data = normal;
    change(data.sequences[0].v, [&](float x, std::int64_t t) {
      return x + (mean >= 0 ? mean : t < 65536 ? 1.0f : -1.0f);
    });
    for (const char* recipe : {"fp8", "int8qk"}) {
      SCOPED_TRACE(fmt::format("{}, mean of V {}", recipe, mean));
      const Measured m = measure(shape, recipe, data);
      EXPECT_GE(m.gpu.db, std::min(m.cpu.db - 1, 50.0));
    }
  }
}

TEST_F(Quality, OfEveryLengthOfTheKeys) {
  for (const char* recipe : {"fp8", "int8qk"}) {
    double worst = 1;
    for (int len = 1; len <= 1100; ++len) {
      const std::string shape = fmt::format("h4 q32 k{} d128", len);
      const Data data = data_of(shape);
      const double cosine =
          compare(attend(shape + " in=f32", data, "cpu"),
                  attend(fmt::format("{} in=bf16 sdpa={}", shape, recipe), data, kBackend))
              .cosine;
      worst = std::min(worst, cosine);
      EXPECT_GE(cosine, 0.998) << recipe << ", " << len << " keys";
    }
    fmt::print("least cosine over 1 … 1,100 keys: {:.5f} ({})\n", worst, recipe);
  }
}

}  // namespace
}  // namespace sotto::test

#include "judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "output_reader.h"

namespace sotto::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double power(const std::vector<double>& x) {
  double sum = 0;
  for (double value : x) sum += value * value;
  return sum;
}

double error_power(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (std::size_t n = 0; n < x.size(); ++n) sum += (x[n] - y[n]) * (x[n] - y[n]);
  return sum;
}

// Beyond the largest number of a per-tensor format, saturation is what is asked for.
std::vector<double> saturated(const AttentionCase& c, std::vector<double> o, double amax) {
  double largest = kInfinity;
  const double scale = static_cast<double>(output_scale(c, amax));
  if (c.output == OutputKind::fp8) largest = 448.0 * scale;
  if (c.output == OutputKind::nvfp4) largest = 448.0 * 6.0 / scale;
  for (double& x : o) x = std::clamp(x, -largest, largest);
  return o;
}

// Checks `o` against exact values: arithmetic as good as `least_db` and one rounding to the output
// format on top. Returns the SQNR.
double compare(const AttentionCase& c, const char* with, const std::vector<double>& exact_o,
               const std::vector<double>& o, double least_db, double amax, Verdict& verdict) {
  const std::vector<double> exact = saturated(c, exact_o, amax);
  const double rounding = error_power(exact, round_to_output(c, exact, amax));
  // Denormal fp32 results may be flushed to zero.
  const double flushed = static_cast<double>(exact.size()) * 0x1p-126 * 0x1p-126;
  const double allowed = power(exact) * std::pow(10.0, -least_db / 10) + 1.5 * rounding + flushed;
  const double error = error_power(exact, o);
  const double db = sqnr_db(exact, o);
  if (!(error <= allowed)) {
    double worst = 0;
    for (std::size_t n = 0; n < o.size(); ++n) worst = std::max(worst, std::fabs(exact[n] - o[n]));
    verdict.faults.push_back(
        fmt::format("O against {}: {:.1f} dB, needs {:.1f} dB (arithmetic {:.1f}), max error {:g}",
                    with, db, 10 * std::log10(power(exact) / allowed), least_db, worst));
  }
  return db;
}

// The rows that count, without padding: [len_q, heads_q, dim_v] and [heads_q, len_q].
Rows valid(const AttentionCase& c, const Rows& rows, std::size_t b) {
  Rows result;
  result.o.assign(rows.o.begin(), rows.o.begin() + c.len_q[b] * c.heads_q * c.dim_v);
  if (rows.lse.empty()) return result;
  const std::int64_t count = rows_q(c, b);
  for (std::int64_t h = 0; h < c.heads_q; ++h) {
    const auto begin = rows.lse.begin() + h * count;
    result.lse.insert(result.lse.end(), begin, begin + c.len_q[b]);
  }
  return result;
}

void check_padding(const AttentionCase& c, const Rows& rows, std::size_t b, Verdict& verdict) {
  for (std::size_t n = static_cast<std::size_t>(c.len_q[b] * c.heads_q * c.dim_v);
       n < rows.o.size(); ++n) {
    if (rows.o[n] != 0.0) return verdict.faults.push_back("a row of padding is not 0");
  }
  const std::int64_t count = rows_q(c, b);
  for (std::size_t n = 0; n < rows.lse.size(); ++n) {
    if (static_cast<std::int64_t>(n) % count >= c.len_q[b] && rows.lse[n] != -kInfinity) {
      return verdict.faults.push_back("the LSE of a row of padding is not -inf");
    }
  }
}

void check_lse(const char* with, const std::vector<double>& exact, const std::vector<double>& lse,
               double absolute, double relative, Verdict& verdict) {
  double worst = 0;
  for (std::size_t n = 0; n < lse.size(); ++n) {
    const bool same_infinity = exact[n] == lse[n];
    const double error = same_infinity ? 0 : std::fabs(exact[n] - lse[n]);
    worst = std::max(
        worst, std::isnan(error) ? kInfinity : error / (absolute + relative * std::fabs(exact[n])));
  }
  if (worst > 1) {
    verdict.faults.push_back(
        fmt::format("LSE against {}: {:.2f} times the error allowed", with, worst));
  }
}

// Rotated Q and K are rounded to 16 bits, and ties may fall either way.
bool rounds_rotated(const AttentionCase& c) {
  return c.recipe && c.rope.present && c.q.dtype != Dtype::f32;
}

bool is_fast(const AttentionCase& c) { return c.recipe ? c.recipe->fast : c.fast; }

// What a backend may lose beyond the rules for all, since its arithmetic is another.
struct Allowance {
  std::string_view backend;
  bool (*applies)(const AttentionCase&);
  double arithmetic_db;  // enough against `reference`
  double truth_db;       // less than the rule for all asks against the truth
  double lse;            // nats that LSE may be off
  const char* reason;
};

// The first that applies counts.
constexpr Allowance kAllowances[] = {
    {"sm90", [](const AttentionCase& c) { return !c.quantized() && c.q.dtype == Dtype::bf16; }, 45,
     0, 1e-4, "P is rounded to bf16 in front of P·V; exponentials are the hardware's"},
    {"sm90", [](const AttentionCase& c) { return !c.quantized() && c.q.dtype == Dtype::f16; }, 60,
     0, 1e-4, "P is rounded to fp16 in front of P·V; exponentials are the hardware's"},
    {"sm90", [](const AttentionCase& c) { return c.recipe && c.recipe->qk == QkFormat::e4m3; }, 23,
     1, 0.2, "Q and K are rounded at other scales than the reference's, so that scores fit f16"},
    {"sm90", [](const AttentionCase& c) { return c.p_e4m3() && c.data == "sink"; }, 25, 1, 0.08,
     "P's largest codes are left for a maximum that grows: small weights have fewer bits"},
    {"sm90", [](const AttentionCase& c) { return c.p_e4m3() && is_fast(c); }, 27, 1, 0.08,
     "P's mantissa by a straight line; LSE from the row sum of P in e4m3"},
    {"sm90", [](const AttentionCase& c) { return c.p_e4m3(); }, 29, 0.5, 0.08,
     "scores in f16 or 16-bit fixed point; LSE from the row sum of P in e4m3"},
};

const Allowance* allowance(const AttentionCase& c, std::string_view backend) {
  for (const Allowance& a : kAllowances) {
    if (a.backend == backend && a.applies(c)) return &a;
  }
  return nullptr;
}

double lse_error(double for_all, const AttentionCase& c, std::string_view backend) {
  const Allowance* a = allowance(c, backend);
  return a == nullptr ? for_all : std::max(for_all, a->lse);
}

double arithmetic_lse_error(const AttentionCase& c, std::string_view backend) {
  // The row sum of P in e4m3 is off by at most half a step of 2^-3.
  const double for_all = c.p_e4m3() ? 0.065 : rounds_rotated(c) ? 5e-3 : 1e-5;
  return lse_error(for_all, c, backend);
}

// Scores are off by what Q and K lost; k_mean · (error of Q) adds to that where K has a large mean.
double truth_lse_error(const AttentionCase& c, std::string_view backend) {
  const double for_all = c.quantized()       ? c.data == "normal" ? 0.3 : 1.5
                         : rounds_rotated(c) ? 0.02
                                             : 1e-5;
  return lse_error(for_all, c, backend);
}

// Whether a backend may multiply in bf16: without a loss, but that P is rounded to it.
bool may_use_bf16(const AttentionCase& c) {
  const auto fits = [](Dtype dtype) {
    return dtype == Dtype::bf16 || dtype == Dtype::e4m3 || dtype == Dtype::i8;
  };
  return fits(c.q.dtype) && fits(c.k.dtype) && fits(c.v.dtype);
}

double arithmetic_db_for_all(const AttentionCase& c) {
  if (c.p_e4m3()) return 30;          // P to e4m3: 32 dB on N(0, 1)
  if (may_use_bf16(c)) return 45;     // P to bf16: 53 dB on N(0, 1), less where O's codes flip
  if (c.data == "large") return 100;  // fp32 scores of 1,000 are exact to 1e-4
  if (rounds_rotated(c)) return 55;
  return 110;
}

double truth_db_for_all(const AttentionCase& c) {
  if (c.least_db) return *c.least_db;
  if (!c.quantized()) {
    // sdpa() rounds rotated Q and K to 16 bits once more.
    if (c.recipe && c.rope.present && c.q.dtype == Dtype::bf16) return 48;
    if (c.recipe && c.rope.present && c.q.dtype == Dtype::f16) return 66;
    return arithmetic_db_for_all(c);
  }
  // What N(0, 1) costs with Q and K in e4m3 (25.5 dB) and in INT8 (28.5 dB), with P and V
  // in e4m3; a short sequence may lie somewhat below.
  const bool e4m3_keys = c.recipe ? c.recipe->qk == QkFormat::e4m3 : c.k.dtype == Dtype::e4m3;
  return e4m3_keys ? 23 : 27.5;
}

}  // namespace

double sqnr_db(const std::vector<double>& reference, const std::vector<double>& result) {
  const double error = error_power(reference, result);
  return error == 0 ? kInfinity : 10 * std::log10(power(reference) / error);
}

double least_arithmetic_db(const AttentionCase& c, std::string_view backend) {
  const Allowance* a = allowance(c, backend);
  const double for_all = arithmetic_db_for_all(c);
  return a == nullptr ? for_all : std::min(for_all, a->arithmetic_db);
}

double least_truth_db(const AttentionCase& c, std::string_view backend) {
  const Allowance* a = allowance(c, backend);
  if (a == nullptr) return truth_db_for_all(c);
  if (c.quantized()) return truth_db_for_all(c) - a->truth_db;
  return std::min(truth_db_for_all(c), a->arithmetic_db);
}

Verdict judge(const AttentionCase& c, std::string_view backend, const std::vector<Exact>& truth,
              const Result& oracle, double amax, const Result& result) {
  Verdict verdict{.faults = result.faults};
  std::vector<double> all_truth, all_oracle, all_o, truth_lse, oracle_lse, lse;
  const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (std::size_t b = 0; b < truth.size(); ++b) {
    const Rows exact = valid(c, oracle.sequences[b], b);
    const Rows rows = valid(c, result.sequences[b], b);
    append(all_truth, truth[b].o);
    append(all_oracle, exact.o);
    append(all_o, rows.o);
    append(truth_lse, truth[b].lse);
    append(oracle_lse, exact.lse);
    append(lse, rows.lse);
    check_padding(c, result.sequences[b], b, verdict);
  }
  if (!std::all_of(all_o.begin(), all_o.end(), [](double x) { return std::isfinite(x); })) {
    verdict.faults.push_back("NaN or Inf in O");
  }
  verdict.arithmetic_db = compare(c, "reference", all_oracle, all_o,
                                  least_arithmetic_db(c, backend) - c.slack_db, amax, verdict);
  verdict.truth_db = compare(c, "the truth", all_truth, all_o,
                             least_truth_db(c, backend) - c.slack_db, amax, verdict);
  if (c.lse) {
    check_lse("reference", oracle_lse, lse, arithmetic_lse_error(c, backend), 5e-6, verdict);
    check_lse("the truth", truth_lse, lse, truth_lse_error(c, backend), 5e-6, verdict);
  }
  return verdict;
}

}  // namespace sotto::test

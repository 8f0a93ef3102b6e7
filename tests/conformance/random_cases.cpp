#include "random_cases.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "data.h"
#include "sotto/recipe.h"

namespace sotto::test {
namespace {

// Multiply-adds of a case, so that the float64 oracle takes milliseconds.
constexpr std::int64_t kMostWork = 6'000'000;
constexpr std::int64_t kMostMaskEntries = 40'000;

bool is_8_bit(const std::string& dtype) { return dtype == "e4m3" || dtype == "i8"; }

class CaseWriter {
 public:
  explicit CaseWriter(std::uint64_t seed) : random_(seed) {}

  std::string write() {
    choose_sizes();
    choose_operands();
    choose_layout();
    shrink();
    write_sizes();
    write_mask();
    write_scores();
    write_output();
    if (recipe_.empty()) {
      write_scales();
      write_smoothing();
    } else {
      write_recipe();
    }
    write_data();
    write_slack();
    return fmt::format("{}", fmt::join(words_, " "));
  }

 private:
  bool chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(high - low + 1));
  }
  // Small numbers are as likely as large ones.
  std::int64_t length(std::int64_t most) {
    const double log = std::uniform_real_distribution<>(0.0, std::log(most + 1.0))(random_);
    return static_cast<std::int64_t>(std::exp(log));
  }
  template <class T>
  T one_of(std::initializer_list<T> list) {
    return list.begin()[random_() % list.size()];
  }
  std::string word_of(std::initializer_list<const char*> list) { return one_of(list); }

  template <class... Args>
  void say(fmt::format_string<Args...> text, Args&&... args) {
    words_.push_back(fmt::format(text, std::forward<Args>(args)...));
  }
  void say_at(int percent, const char* word) {
    if (chance(percent)) words_.emplace_back(word);
  }

  std::int64_t head_size() {
    if (chance(50)) return one_of<std::int64_t>({64, 128});
    return chance(4) ? 512 : 16 * between(1, 16);
  }

  void choose_sizes() {
    batch_ = between(1, 4);
    heads_kv_ = one_of<std::int64_t>({1, 1, 2, 2, 3, 4});
    heads_q_ = heads_kv_ * one_of<std::int64_t>({1, 1, 2, 2, 3, 4, 7, 8});
    dim_qk_ = head_size();
    dim_v_ = chance(75) ? dim_qk_ : head_size();
    const bool decode = chance(30);
    const std::int64_t most_q = decode ? 4 : 200, most_k = chance(10) ? 3000 : 600;
    for (std::int64_t b = 0; b < batch_; ++b) {
      len_q_.push_back(chance(4) ? 0 : length(most_q));
      len_k_.push_back(chance(4) ? 0 : length(most_k));
    }
  }

  void choose_operands() {
    const std::string real = word_of({"f32", "bf16", "f16"});
    switch (between(0, 6)) {
      case 0:
      case 1:
        q_ = k_ = v_ = real;
        break;
      case 2:
        q_ = k_ = v_ = real;
        recipe_ = word_of({"exact", "fp8", "fp8-hadamard", "int8qk", "int8qk", "high"});
        break;
      case 3:
        q_ = k_ = v_ = "e4m3";
        break;
      case 4:
        q_ = k_ = "i8";
        v_ = "e4m3";
        break;
      case 5:  // a quantised cache
        q_ = real;
        k_ = word_of({"e4m3", "i8"});
        v_ = chance(70) ? "e4m3" : real;
        break;
      default:
        q_ = k_ = word_of({"e4m3", "i8", real.c_str()});
        v_ = q_ == real ? "e4m3" : real;
    }
  }

  void choose_layout() {
    const bool caches = recipe_.empty();
    switch (between(0, caches ? 5 : 3)) {
      case 0:
      case 1:
        break;
      case 2:
        packed_q_ = true;
        break;
      case 3:
        packed_q_ = packed_k_ = true;
        break;
      case 4:
        page_size_ = one_of<std::int64_t>({1, 3, 16, 16, 64, 100, 256});
        packed_q_ = chance(30);
        break;
      default:
        batch_idx_ = true;
        packed_q_ = chance(20);
    }
    padded_q_ = chance(20);
    padded_k_ = page_size_ == 0 && chance(25);
    if (!packed_q_ && !padded_q_) len_q_.assign(len_q_.size(), len_q_.front());
    if (!packed_k_ && !padded_k_ && page_size_ == 0) len_k_.assign(len_k_.size(), len_k_.front());
  }

  void shrink() {
    const auto work = [&] {
      std::int64_t sum = 0;
      for (std::size_t b = 0; b < len_q_.size(); ++b) sum += len_q_[b] * len_k_[b];
      return sum * heads_q_ * (dim_qk_ + dim_v_);
    };
    while (work() > kMostWork) {
      for (std::int64_t& len : longest(len_q_) > longest(len_k_) ? len_q_ : len_k_) len /= 2;
    }
  }

  static std::int64_t longest(const std::vector<std::int64_t>& lengths) {
    return *std::max_element(lengths.begin(), lengths.end());
  }

  void write_sizes() {
    say("b{} h{}/{} d{}/{}", batch_, heads_q_, heads_kv_, dim_qk_, dim_v_);
    say("q{} k{} in={}/{}/{}", fmt::join(len_q_, ":"), fmt::join(len_k_, ":"), q_, k_, v_);
    if (packed_k_) {
      say("packed");
    } else if (packed_q_) {
      say("packed_q");
    }
    if (page_size_ > 0) say("paged{}", page_size_);
    if (batch_idx_) say("batch_idx");
    if (padded_q_) say("padded_q");
    if (padded_k_) say("padded_k");
    if (packed_q_) say_at(40, "max_len");
    say_at(20, "bhsd");
    say_at(15, chance(90) ? "strided" : "far");
  }

  void write_mask() {
    const auto side = [&] { return chance(25) ? std::int64_t{-1} : length(400) - 1; };
    switch (between(0, 5)) {
      case 0:
      case 1:
        break;
      case 2:
        say("causal");
        break;
      case 3:
        say("causal_br");
        bottom_right_ = true;
        break;
      case 4:
        say("window={}/{}", side(), side());
        bottom_right_ = true;
        break;
      default:
        say("band={}/{}", side(), side());
    }
    const auto total = [&](const std::vector<std::int64_t>& lengths) {
      std::int64_t sum = 300;  // more than padding and pages add
      for (std::int64_t len : lengths) sum += len;
      return sum;
    };
    if (chance(15) && total(len_q_) * total(len_k_) <= kMostMaskEntries * 8) {
      say("dense={}:{}:{}", word_of({"bool", "f32", "f16", "bf16"}), word_of({"b", "1"}),
          word_of({"h", "1"}));
    }
  }

  void write_scores() {
    if (chance(12)) say("scale={:.3g}", between(1, 12) / 10.0 / std::sqrt(dim_qk_));
    if (chance(15)) say("softcap{}", one_of({5, 20, 50}));
    say_at(20, "sinks");
    say_at(60, "lse");
    if (chance(15)) say("splits{}", between(1, 9));
    say_at(8, "fast");
    say_at(8, "plain");
  }

  void write_output() {
    std::string out = word_of({"f32", "f32", "bf16", "f16", "e4m3", "groups64", "nvfp4"});
    if (out == "groups64") {
      if (dim_v_ % 64 != 0) return;
      if (dim_v_ % 128 == 0 && chance(50)) out = "groups128";
      for (const char* suffix : {":ue8m0", ":col", ":pad"}) {
        if (chance(30)) out += suffix;
      }
    }
    say("out={}", out);
    if ((out == "e4m3" || out == "nvfp4") && chance(20)) {
      // Far too small or large a scale leaves little but the errors of 8-bit operands.
      say("range={}",
          is_quantized() ? word_of({"0.3", "4"}) : word_of({"0.01", "0.3", "4", "100"}));
    }
  }

  void write_scales() {
    const auto scale = [&](const char* key, const std::string& dtype) {
      if (!is_8_bit(dtype)) return;
      std::string granularity = word_of(
          {"tensor", "head", "head", "kv_head", "token", "block", "block", "broadcast", "absent"});
      if (granularity == "absent" && (dtype == "i8" || chance(50))) granularity = "token";
      if (granularity == "absent") natural_scale_ = true;
      if (granularity == "block") {
        granularity += std::to_string(one_of({1, 16, 32, 48, 64, 128, 128, 200}));
      }
      say("{}={}", key, granularity);
    };
    scale("sq", q_);
    scale("sk", k_);
    scale("sv", v_);
  }

  // What is done to operands before they are quantised. Operands of 16 bits would be rounded once
  // more, beyond what the judge allows to a case without 8-bit operands.
  void write_smoothing() {
    if ((!is_quantized() && q_ != "f32") || natural_scale_ || !chance(40)) return;
    smoothed_ = true;
    const bool exact_v = !is_8_bit(v_) && v_ != "f32", exact_qk = !is_8_bit(k_) && k_ != "f32";
    if (!exact_qk && chance(50)) {
      say("had={}", exact_v ? "qk" : word_of({"qk", "qkv"}));
    } else if (!exact_v && chance(30)) {
      say("had=v_only");
    }
    if (!exact_qk) {
      // k_mean makes up for q·k_mean from the stored q, which must then be all of q.
      const std::string key_mean = word_of({"", "k_mean", "row_bias"});
      if (!key_mean.empty()) words_.push_back(key_mean);
      if (is_8_bit(q_) && key_mean != "k_mean") say_at(40, "q_mean");
    }
    if (!exact_v) say_at(30, "v_mean");
    if (v_ == "e4m3") say_at(30, "v_lo");
  }

  void write_recipe() {
    std::string recipe = recipe_;
    const auto add = [&](int percent, const std::string& member) {
      if (chance(percent)) recipe += "+" + member;
    };
    add(15, "fast");
    add(15, "accumulation=plain");
    if (recipe_ != "exact" || q_ == "f32") {
      add(30, "hadamard=" + word_of({"none", "qk", "qkv", "v_only"}));
      add(30, "smooth_k=" + word_of({"on", "off"}));
      add(20, "smooth_q");
      add(20, "v_mean");
    }
    say("sdpa={}", recipe);
    if (!chance(45)) return;
    rotated_ = true;
    say("rope={}", word_of({"halves", "interleaved"}));
    if (chance(30)) words_.back() += fmt::format(":{}", 2 * between(1, dim_qk_ / 2));
    say_at(30, "rope_full");
    // Bottom right, without positions, some query may stand before the first key.
    if (bottom_right_ || chance(40)) say("positions");
  }

  bool is_quantized() const {
    return is_8_bit(k_) || is_8_bit(v_) || (!recipe_.empty() && recipe_ != "exact");
  }

  void write_data() {
    if (chance(75) || natural_scale_ || smoothed_ || rotated_) return;
    if (is_quantized()) {
      say("data={}", word_of({"v_bias", "zeros", "constant"}));
    } else {
      say("data={}", word_of({"v_bias", "zeros", "constant", "sink", "outliers", "k_bias"}));
    }
  }

  // The judge's limits are means over many rows; those of a few rows scatter.
  void write_slack() {
    std::int64_t rows = 1;
    for (std::int64_t len : len_q_) rows += len * heads_q_;
    say("slack={:.2f}", 10 * std::log10(1 + 4 / std::sqrt(static_cast<double>(rows))));
  }

  Random random_;
  std::vector<std::string> words_;
  std::int64_t batch_ = 0, heads_q_ = 0, heads_kv_ = 0, dim_qk_ = 0, dim_v_ = 0, page_size_ = 0;
  std::vector<std::int64_t> len_q_, len_k_;
  std::string q_, k_, v_, recipe_;
  bool packed_q_ = false, packed_k_ = false, batch_idx_ = false;
  bool padded_q_ = false, padded_k_ = false, bottom_right_ = false;
  bool natural_scale_ = false, smoothed_ = false, rotated_ = false;
};

}  // namespace

std::vector<std::string> random_cases(std::uint64_t seed, std::int64_t count) {
  std::vector<std::string> lines;
  for (std::int64_t n = 0; n < count; ++n) {
    lines.push_back(CaseWriter(seed + static_cast<std::uint64_t>(n)).write());
  }
  return lines;
}

}  // namespace sotto::test

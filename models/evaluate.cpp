#include "models/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "models/rowwise.h"
#include "sotto/error.h"
#include "sotto/sdpa.h"

namespace sotto::models {
namespace {

using Clock = std::chrono::steady_clock;

// Rows of logits in memory at once, for exact and for the mode at hand.
constexpr std::int64_t kLogitRows = 256;

constexpr std::size_t kAlignment = 64;  // of a plan's workspace

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// One mode's way through the text: its attention, and what was measured so far.
struct Run {
  std::string name;
  Recipe recipe;
  std::optional<SdpaPlan> plan = {};  // made at the first layer, for all layers and windows

  std::vector<float> hidden = {};  // what the output head reads, of the window at hand
  double window_seconds = 0;
  std::vector<double> window_times = {};
  double attention_seconds = 0;
  std::vector<Energy> layers = {};
  std::vector<double> nll = {};  // of every prediction
  std::vector<double> kl = {};   // at every position
  std::vector<char> same = {};   // at every position: ranks the same token first as exact
};

class Evaluation {
 public:
  Evaluation(Llama& model, const EvalOptions& options);
  EvalResult run(std::span<const std::span<const std::int32_t>> windows);

 private:
  void forward(Run& run, std::span<const std::int32_t> window);
  void compare_layer(std::int64_t layer, const AttentionArgs& args, const Rope& rope);
  void prepare(Run& run, AttentionArgs args, const Rope& rope);
  void attend(const Run& run, AttentionArgs args, const Rope& rope);
  void read_logits(std::span<const std::int32_t> window);
  void measure(Run& run, std::span<const std::int32_t> window, std::int64_t first,
               std::int64_t rows);
  ModeResult result(const Run& run, std::size_t windows) const;

  bool skipped(std::int64_t layer) const {
    return layer < options_.skip_first || layer >= model_.config().layers - options_.skip_last;
  }

  Llama& model_;
  const EvalOptions& options_;
  std::vector<Run> runs_;            // the first is exact
  std::vector<std::size_t> listed_;  // the run of each of the options' modes
  std::vector<std::byte> workspace_;
  std::vector<float> compared_;  // another recipe's attention output
  std::vector<float> exact_logits_, logits_;
  std::vector<RowSummary> exact_rows_;
  std::int64_t done_ = 0, total_ = 0;  // layers
};

Evaluation::Evaluation(Llama& model, const EvalOptions& options)
    : model_(model), options_(options) {
  runs_.push_back({.name = "exact", .recipe = Recipe::exact()});
  bool exact_listed = false;
  for (const std::string& mode : options.modes) {
    const Recipe recipe = Recipe::parse(mode);
    if (recipe == Recipe::exact() && !exact_listed) {
      exact_listed = true;
      runs_[0].name = mode;
      listed_.push_back(0);
    } else {
      listed_.push_back(runs_.size());
      runs_.push_back({.name = mode, .recipe = recipe});
    }
  }
  for (Run& run : runs_) run.layers.resize(static_cast<std::size_t>(model.config().layers));
}

EvalResult Evaluation::run(std::span<const std::span<const std::int32_t>> windows) {
  total_ = static_cast<std::int64_t>(windows.size() * runs_.size()) * model_.config().layers;
  EvalResult all{.windows = static_cast<std::int64_t>(windows.size())};
  for (const auto& window : windows) {
    for (Run& run : runs_) forward(run, window);
    read_logits(window);
    for (Run& run : runs_) run.window_times.push_back(std::exchange(run.window_seconds, 0));
    all.evaluated_tokens += static_cast<std::int64_t>(window.size());
  }
  for (const std::size_t index : listed_)
    all.results.push_back(result(runs_[index], windows.size()));
  return all;
}

void Evaluation::forward(Run& run, std::span<const std::int32_t> window) {
  double not_ours = 0;
  const auto start = Clock::now();
  const auto hidden =
      model_.forward(window, [&](std::int64_t layer, const AttentionArgs& args, const Rope& rope) {
        const auto arrived = Clock::now();
        Run& attending = skipped(layer) ? runs_[0] : run;
        prepare(attending, args, rope);
        const auto attention_start = Clock::now();
        attend(attending, args, rope);
        const auto attention_end = Clock::now();
        if (&run == &runs_[0] && !skipped(layer)) compare_layer(layer, args, rope);
        if (options_.progress) options_.progress(++done_, total_);

        const double in_attention = seconds_between(attention_start, attention_end);
        run.attention_seconds += in_attention;
        not_ours += seconds_between(arrived, Clock::now()) - in_attention;
      });
  run.window_seconds += seconds_between(start, Clock::now()) - not_ours;
  run.hidden.assign(hidden.begin(), hidden.end());
}

void Evaluation::prepare(Run& run, AttentionArgs args, const Rope& rope) {
  if (run.plan) return;
  args.backend = options_.backend;
  run.plan.emplace(args, SdpaOptions{.recipe = run.recipe, .rope = rope});
  workspace_.resize(std::max(workspace_.size(), run.plan->workspace_size() + kAlignment));
}

void Evaluation::attend(const Run& run, AttentionArgs args, const Rope& rope) {
  args.backend = options_.backend;
  void* aligned = workspace_.data();
  std::size_t space = workspace_.size();
  std::align(kAlignment, 0, aligned, space);
  run.plan->run(args, {.recipe = run.recipe, .rope = rope},
                {static_cast<std::byte*>(aligned), space});
}

// Every other recipe on the exact run's Q, K and V, against the exact run's output.
void Evaluation::compare_layer(std::int64_t layer, const AttentionArgs& exact, const Rope& rope) {
  AttentionArgs args = exact;
  compared_.resize(static_cast<std::size_t>(exact.out.numel()));
  args.out.data = compared_.data();
  for (std::size_t i = 1; i < runs_.size(); ++i) {
    prepare(runs_[i], args, rope);
    attend(runs_[i], args, rope);
    const std::int64_t rows = exact.out.size(1);
    const Energy energy = error_energy(static_cast<const float*>(exact.out.data), compared_.data(),
                                       rows, exact.out.numel() / rows);
    Energy& sum = runs_[i].layers[static_cast<std::size_t>(layer)];
    sum.reference += energy.reference;
    sum.error += energy.error;
  }
}

// The output head and what is measured on it, some rows at a time: the logits of a whole window
// would take gigabytes.
void Evaluation::read_logits(std::span<const std::int32_t> window) {
  const std::int64_t vocab = model_.config().vocab;
  const std::int64_t hidden = model_.config().hidden;
  const auto tokens = static_cast<std::int64_t>(window.size());
  const auto most = static_cast<std::size_t>(std::min(tokens, kLogitRows) * vocab);
  exact_logits_.resize(most);
  logits_.resize(most);
  exact_rows_.resize(kLogitRows);
  for (std::int64_t first = 0; first < tokens; first += kLogitRows) {
    const std::int64_t rows = std::min(kLogitRows, tokens - first);
    for (Run& run : runs_) {
      auto& out = &run == &runs_[0] ? exact_logits_ : logits_;
      const auto start = Clock::now();
      model_.logits(run.hidden.data() + first * hidden, rows, out.data());
      run.window_seconds += seconds_between(start, Clock::now());
      measure(run, window, first, rows);
    }
  }
}

// On the rows that start at token `first`, whose logits (and exact's) are there.
void Evaluation::measure(Run& run, std::span<const std::int32_t> window, std::int64_t first,
                         std::int64_t rows) {
  const bool exact = &run == &runs_[0];
  const std::int64_t vocab = model_.config().vocab;
  const auto tokens = static_cast<std::int64_t>(window.size());
  const auto predictions = std::min(rows, tokens - 1 - first);  // the last position has none
  const std::size_t nll_base = run.nll.size(), row_base = run.kl.size();
  run.nll.resize(nll_base + static_cast<std::size_t>(predictions));
  run.kl.resize(row_base + static_cast<std::size_t>(rows));
  run.same.resize(row_base + static_cast<std::size_t>(rows));

#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto i = static_cast<std::size_t>(r);
    const float* reference = exact_logits_.data() + r * vocab;
    const float* row = exact ? reference : logits_.data() + r * vocab;
    const RowSummary summary = summarize(row, vocab);
    if (exact) exact_rows_[i] = summary;
    if (r < predictions)
      run.nll[nll_base + i] =
          summary.log_sum_exp - row[window[static_cast<std::size_t>(first + r + 1)]];
    run.kl[row_base + i] = exact ? 0
                                 : kl_divergence(reference, exact_rows_[i].log_sum_exp, row,
                                                 summary.log_sum_exp, vocab);
    run.same[row_base + i] = summary.argmax == exact_rows_[i].argmax;
  }
}

ModeResult Evaluation::result(const Run& run, std::size_t windows) const {
  ModeResult out{.mode = run.name,
                 .backend = std::string(run.plan ? run.plan->backend() : runs_[0].plan->backend()),
                 .perplexity = std::exp(mean(run.nll)),
                 .kl = mean(run.kl),
                 .top1 = static_cast<double>(std::count(run.same.begin(), run.same.end(), 1)) /
                         static_cast<double>(run.same.size()),
                 .window_seconds = run.window_times,
                 .attention_seconds = run.attention_seconds};
  const std::size_t per_window = run.nll.size() / windows;
  for (std::size_t w = 0; w < windows; ++w)
    out.window_perplexity.push_back(
        std::exp(mean(std::span(run.nll).subspan(w * per_window, per_window))));
  for (const double seconds : run.window_times) out.seconds += seconds;

  std::vector<double> difference(run.nll.size());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = run.nll[i] - runs_[0].nll[i];
  const double change = mean(difference);
  double squares = 0;
  for (const double d : difference) squares += (d - change) * (d - change);
  const auto n = static_cast<double>(difference.size());
  out.perplexity_change = std::expm1(change);
  // d exp(x) = exp(x) dx
  if (n > 1) out.perplexity_change_error = std::exp(change) * std::sqrt(squares / (n - 1) / n);

  for (const Energy& layer : run.layers)
    out.layer_sqnr_db.push_back(layer.error > 0 ? 10 * std::log10(layer.reference / layer.error)
                                                : kNone);
  return out;
}

}  // namespace

std::vector<std::span<const std::int32_t>> split_windows(std::span<const std::int32_t> tokens,
                                                         std::int64_t context,
                                                         std::int64_t max_windows) {
  if (context < 2)
    throw InvalidArgument("context", "expected at least 2 tokens, got " + std::to_string(context));
  if (max_windows < 0)
    throw InvalidArgument("windows",
                          "expected 0 (all) or more, got " + std::to_string(max_windows));
  if (tokens.size() < 2)
    throw InvalidArgument("tokens", "expected at least 2, so that there is one to predict, got " +
                                        std::to_string(tokens.size()));
  const std::size_t length = std::min(tokens.size(), static_cast<std::size_t>(context));
  std::size_t count = tokens.size() / length;
  if (max_windows > 0) count = std::min(count, static_cast<std::size_t>(max_windows));
  std::vector<std::span<const std::int32_t>> windows;
  for (std::size_t i = 0; i < count; ++i) windows.push_back(tokens.subspan(i * length, length));
  return windows;
}

EvalResult evaluate(Llama& model, std::span<const std::int32_t> tokens,
                    const EvalOptions& options) {
  const std::int64_t layers = model.config().layers;
  if (options.modes.empty()) throw InvalidArgument("modes", "expected at least one");
  if (options.skip_first < 0)
    throw InvalidArgument("skip_first",
                          "expected 0 or more layers, got " + std::to_string(options.skip_first));
  if (options.skip_last < 0)
    throw InvalidArgument("skip_last",
                          "expected 0 or more layers, got " + std::to_string(options.skip_last));
  if (options.skip_first > layers || options.skip_last > layers - options.skip_first)
    throw InvalidArgument("skip_first, skip_last",
                          "expected at most the model's " + std::to_string(layers) +
                              " layers together, got " + std::to_string(options.skip_first) +
                              " and " + std::to_string(options.skip_last));
  const auto windows = split_windows(tokens, options.context, options.max_windows);
  return Evaluation(model, options).run(windows);
}

}  // namespace sotto::models

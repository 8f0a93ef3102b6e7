// What each attention recipe costs in quality and takes in time, measured on a language model
// that reads a text.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "models/llama.h"
#include "sotto/recipe.h"

namespace sotto::models {

inline constexpr double kNone = std::numeric_limits<double>::quiet_NaN();  // no such number

struct EvalOptions {
  std::int64_t context = 1024;                 // tokens per window, >= 2
  std::int64_t max_windows = 4;                // 0: as many as the text has
  std::vector<std::string> modes = {"exact"};  // as Recipe::parse() reads them
  std::int64_t skip_first = 0, skip_last = 0;  // layers at either end whose attention stays exact
  std::string backend = {};                    // empty: chosen by rules
  // Called as the work goes on, with done rising to total.
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};
};

// One mode. The comparisons are with the recipe `exact` on the same windows and the same backend.
struct ModeResult {
  std::string mode = {};
  std::string backend = {};                    // that ran its attention
  double perplexity = kNone;                   // exp of the mean NLL of all predictions
  std::vector<double> window_perplexity = {};  // the same, of each window
  double perplexity_change = kNone;            // perplexity / exact's - 1
  double perplexity_change_error = kNone;  // its standard error: of the mean paired difference of
                                           // the NLL, taken over predictions
  double kl = kNone;    // mean KL(exact || mode) of the next-token distributions, nats
  double top1 = kNone;  // share of positions where both rank the same token first
  double seconds = 0;   // forward passes with the output head, without what is measured on them
  std::vector<double> window_seconds = {};
  double attention_seconds = 0;  // of these, in attention, quantisation included
  std::vector<double> layer_sqnr_db =
      {};  // of attention's output on the exact run's Q, K and V:
           // 10·log10(Σ ref² / Σ (ref − out)²) over all windows. NaN
           // where the output is exact's, bit by bit (skipped layers)
};

struct EvalResult {
  std::int64_t windows = 0;
  std::int64_t evaluated_tokens = 0;     // in all windows together
  std::vector<ModeResult> results = {};  // in the order of the options' modes
};

// The windows that evaluate() would use: consecutive and of `context` tokens, a last partial one
// dropped; a text shorter than that is one window. No token is put in front.
std::vector<std::span<const std::int32_t>> split_windows(std::span<const std::int32_t> tokens,
                                                         std::int64_t context,
                                                         std::int64_t max_windows);

// Every window goes through the model once per mode, and once with exact attention if that is not
// among the modes. In each window, token t+1 is predicted from those before it: context - 1
// predictions. Throws InvalidArgument for options that do not fit the model, before it starts.
EvalResult evaluate(Llama& model, std::span<const std::int32_t> tokens, const EvalOptions& options);

}  // namespace sotto::models

// The result of `sotto eval` as a table, as JSON, and as a page with pictures.
#pragma once

#include <cstdint>
#include <string>

#include "models/evaluate.h"

namespace sotto::cli {

struct EvalSummary {
  std::string model;       // the name of its file or folder
  std::string model_name;  // as the file itself says
  std::string text;        // the name of the file of text or token ids
  std::int64_t text_tokens = 0;
  std::int64_t context = 0;  // tokens per window that were asked for
  models::EvalResult result = {};
};

std::string to_table(const EvalSummary& summary);

// Numbers that do not exist are null. docs/eval.md describes every field.
std::string to_json(const EvalSummary& summary);

// A page of HTML that needs nothing else: the table, quality by mode, SQNR by layer.
std::string to_html(const EvalSummary& summary);

// The worst and the mean of a mode's layers; NaN where no layer has a figure.
struct LayerSqnr {
  double worst = models::kNone, mean = models::kNone;
};
LayerSqnr layer_sqnr(const models::ModeResult& mode);

// How a table shows a mode: one cell per column, "-" where there is no number.
struct Cells {
  std::string mode, perplexity, change, kl, top1, sqnr_worst, sqnr_mean, attention_seconds, seconds;
};
Cells cells(const models::ModeResult& mode);

}  // namespace sotto::cli

// `sotto eval`: a language model reads a text with each attention recipe in turn.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "eval/output.h"
#include "models/evaluate.h"
#include "models/input_files.h"
#include "models/model_file.h"
#include "option_values.h"
#include "output_file.h"
#include "progress.h"
#include "sotto/error.h"
#include "sotto/recipe.h"

namespace sotto::cli {
namespace {

constexpr const char* kHelp = R"(Modes
  exact, fp8, fp8-hadamard, int8qk, high; each may be followed by members to change:
  +hadamard=none|qk|qkv|v_only  +smooth_k  +smooth_q  +v_mean  +fast  +accumulation=safe|plain
  (+member=off switches one off). exact is always measured, to compare with.

Windows
  The text becomes tokens as a whole, without special tokens, and is cut into windows of --context
  tokens; a last partial one is dropped. A text shorter than a window is one window.

Examples
  sotto eval --model SmolLM2-135M-Instruct.Q4_1.gguf --text book.txt
  sotto eval --model model/ --text book.txt --context 2048 --windows all --report book.html
  sotto eval --model m.gguf --tokens ids.txt --modes exact,int8qk+v_mean,fp8+hadamard=qkv --json

Exit codes
  0 done, 1 something went wrong (a file, memory, no backend), 2 the command line is wrong.)";

struct Options {
  std::string model, text, tokens, report;
  models::EvalOptions eval{.modes = Recipe::names()};
  std::int64_t threads = 0;  // 0: all
  bool json = false;
};

void check(const Options& options) {
  if (options.model.empty())
    throw UsageError("--model: expected a .gguf or .safetensors file, or a model's folder");
  if (options.text.empty() == options.tokens.empty())
    throw UsageError("expected a text: either --text FILE or --tokens FILE");
  for (const std::string& mode : options.eval.modes) parse_recipe("--modes", mode);
  if (!options.report.empty()) {
    check_ending("--report", options.report, {".html"});
    check_writable(options.report);
  }
}

// Of a folder, too, when it is written with a slash at its end.
std::string file_name(const std::string& path) {
  const std::filesystem::path whole = std::filesystem::path(path).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

void run(Options options) {
  check(options);
  use_threads(options.threads);

  const bool from_text = !options.text.empty();
  const std::string& source = from_text ? options.text : options.tokens;
  const std::string text = from_text ? models::read_text(source) : "";
  models::Model model = models::load_model(
      options.model, from_text ? models::LoadTokenizer::yes : models::LoadTokenizer::no);
  if (from_text && !model.tokenizer)
    throw Error(options.model + ": has no tokenizer; give token ids by --tokens");
  const std::vector<std::int32_t> tokens =
      from_text ? model.tokenizer->encode(text)
                : models::read_token_ids(source, model.weights.config.vocab);
  if (tokens.size() < 2)
    throw Error(
        fmt::format("{}: expected at least 2 tokens, so that there is one to predict, got {}",
                    source, tokens.size()));

  EvalSummary summary{.model = file_name(options.model),
                      .model_name = model.name,
                      .text = file_name(source),
                      .text_tokens = static_cast<std::int64_t>(tokens.size()),
                      .context = options.eval.context};
  const std::int64_t window = std::min(options.eval.context, summary.text_tokens);
  const std::int64_t layers = model.weights.config.layers;
  if (options.eval.skip_first > layers || options.eval.skip_last > layers - options.eval.skip_first)
    throw Error(
        fmt::format("--skip-first, --skip-last: expected at most the model's {} layers "
                    "together, got {} and {}",
                    layers, options.eval.skip_first, options.eval.skip_last));
  if (window > model.weights.config.context_length)
    fmt::print(
        stderr,
        "sotto eval: warning: windows of {} tokens are longer than the {} that the model was "
        "made for\n",
        window, model.weights.config.context_length);
  models::Llama llama(std::move(model.weights), window);
  {
    Progress progress("evaluating");
    options.eval.progress = [&](std::int64_t done, std::int64_t total) {
      progress.show(done, total);
    };
    summary.result = models::evaluate(llama, tokens, options.eval);
  }
  fmt::print("{}", options.json ? to_json(summary) : to_table(summary));
  if (!options.report.empty()) write_file(options.report, to_html(summary));
}

}  // namespace

Command add_eval(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* eval = app.add_subcommand(
      "eval", "Measure what each attention recipe costs a language model in quality and time");
  eval->add_option("--model", options->model,
                   "Llama model: a .gguf or .safetensors file, or a folder with config.json")
      ->type_name("PATH");
  eval->add_option("--text", options->text, "The text to read, UTF-8")->type_name("FILE");
  eval->add_option("--tokens", options->tokens,
                   "Token ids instead of a text: separated by spaces or commas, or a JSON array")
      ->type_name("FILE");
  add_count(*eval, "--context", options->eval.context, "Tokens per window", 2)
      ->default_str(std::to_string(options->eval.context));
  eval->add_option_function<std::string>(
          "--windows",
          [options](const std::string& text) {
            options->eval.max_windows = text == "all" ? 0 : parse_count("--windows", text, 0);
          },
          "How many windows at most; all (or 0): all")
      ->type_name("N")
      ->default_str(std::to_string(options->eval.max_windows));
  eval->add_option_function<std::string>(
          "--modes", [options](const std::string& text) { options->eval.modes = split(text); },
          "Recipes, separated by commas (see below)")
      ->type_name("LIST")
      ->default_str(fmt::format("{}", fmt::join(options->eval.modes, ",")));
  add_count(*eval, "--skip-first", options->eval.skip_first,
            "Keep the attention of the first N layers exact", 0);
  add_count(*eval, "--skip-last", options->eval.skip_last,
            "Keep the attention of the last N layers exact", 0);
  add_backend(*eval, options->eval.backend);
  add_threads(*eval, options->threads);
  eval->add_flag("--json", options->json, "Print JSON instead of a table");
  eval->add_option("--report", options->report, "Write a page with pictures as well (.html)")
      ->type_name("FILE");
  eval->footer(kHelp);
  return {eval, [options] { run(*options); }};
}

}  // namespace sotto::cli

// `sotto run`: attention on tensors of files, with every option of the library.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "models/file_error.h"
#include "output_file.h"
#include "run/options.h"
#include "run/report.h"
#include "run/request.h"
#include "run/result.h"
#include "sotto/backend.h"

namespace sotto::cli {
namespace {

// What --compare names: the file as the result itself would be, and the tensor of `out` in it.
struct Reference {
  models::TensorMap tensors;
  std::string name, text;
};

std::optional<Reference> open_reference(const std::string& text, TensorFiles& files) {
  if (text.empty()) return std::nullopt;
  auto place = parse_place(text);
  if (!place)
    throw UsageError(fmt::format(
        "--compare: expected FILE.npy, FILE.safetensors or FILE.safetensors:NAME, got '{}'", text));
  if (place->name.empty()) place->name = "out";
  const models::StoredTensor& tensor = files.stored(*place);  // or an error
  if (place->file.ends_with(".npy")) return Reference{{{"out", tensor}}, "out", text};
  return Reference{files.tensors(place->file), place->name, text};
}

std::vector<std::int64_t> shape_of_values(const models::StoredTensor& tensor) {
  std::vector<std::int64_t> shape = tensor.shape;
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 2;
  if (tensor.type == models::StorageType::u8 && !shape.empty() && shape.back() <= kMost)
    shape.back() *= 2;  // NVFP4 pairs
  return shape;
}

NamedComparison compare_tensor(const std::string& name, const RunResult& result,
                               const std::string& their_name, const Reference& reference) {
  NamedComparison comparison{.name = name,
                             .reference = reference.text,
                             .shape = shape_of_values(result.tensors().at(name)),
                             .figures = {}};
  const models::StoredTensor& theirs = reference.tensors.at(their_name);
  if (shape_of_values(theirs) != comparison.shape)
    throw models::FileError(theirs.file, their_name,
                            fmt::format("must have {}'s shape [{}] to be compared, got {}", name,
                                        fmt::join(comparison.shape, ", "), to_string(theirs)));
  const std::vector<float> ours = values_of(result.tensors(), name, "the result");
  const std::vector<float> expected = values_of(reference.tensors, their_name, theirs.file);
  comparison.figures = compare(ours, expected);
  const auto at = [&](std::size_t i) { return std::pair{ours[i], expected[i]}; };
  if (comparison.figures.first_mismatch) {
    comparison.first = at(*comparison.figures.first_mismatch);
    comparison.worst = at(comparison.figures.worst);
  }
  return comparison;
}

std::vector<NamedComparison> compare_all(const RunResult& result, const Reference& reference) {
  std::vector<NamedComparison> comparisons;
  comparisons.push_back(compare_tensor("out", result, reference.name, reference));
  if (result.tensors().contains("lse") && reference.tensors.contains("lse"))
    comparisons.push_back(compare_tensor("lse", result, "lse", reference));
  return comparisons;
}

void describe_out(const RunResult& result, const AttentionArgs& args, RunSummary& summary) {
  summary.out = fmt::format("{} [{}]", dtype_name(args.out.dtype),
                            fmt::join(result.tensors().at("out").shape, ", "));
  for (const float value : values_of(result.tensors(), "out", "the result"))
    if (std::isfinite(value))
      summary.out_amax = std::max(summary.out_amax, std::abs(static_cast<double>(value)));
    else
      ++summary.out_nonfinite;
}

void check_sqnr(const RunCommand& command, const RunSummary& summary) {
  if (!command.min_sqnr) return;
  const NamedComparison& out = summary.comparisons.front();
  if (out.figures.nonfinite_mismatches > 0)
    throw Error(
        fmt::format("--min-sqnr {}: {} elements of out are not finite where {} is, or the "
                    "other way round",
                    *command.min_sqnr, out.figures.nonfinite_mismatches, out.reference));
  if (!(out.figures.sqnr_db >= *command.min_sqnr))
    throw Error(fmt::format("--min-sqnr {}: out is at {:.2f} dB against {}", *command.min_sqnr,
                            out.figures.sqnr_db, out.reference));
}

// No input is lost to a result of the same name.
void check_inputs_stay(const RunCommand& command, const TensorFiles& files) {
  const auto check = [&](const char* option, const std::string& file) {
    if (!file.empty() && files.reads(file))
      throw UsageError(fmt::format("{} {}: is a file that is read; choose another", option, file));
  };
  check("--out", command.result.out_file);
  check("--lse-out", command.result.lse_file);
  check("--json", command.json.file);
}

void attend(const RunRequest& request) {
  if (request.sdpa)
    sdpa(request.args, *request.sdpa);
  else
    attention(request.args);
}

void run(const RunCommand& command) {
  check_run_options(command);
  use_threads(command.threads);
  RunRequest request = make_request(command.request);
  const auto reference = open_reference(command.compare, request.files);
  check_inputs_stay(command, request.files);
  RunResult result(command.result, command.request.layout, request.args);
  RunSummary summary;
  summary.explain = command.explain;
  summary.request = &request;
  try {
    summary.explanation =
        request.sdpa ? explain(request.args, *request.sdpa) : explain(request.args);
    const auto& answers = summary.explanation.answers;
    const auto chosen =
        std::find_if(answers.begin(), answers.end(), [](const auto& a) { return a.chosen; });
    if (chosen == answers.end() && command.explain && !command.json.to_stdout)
      fmt::print("{}", summary.explanation.text());
    if (chosen != answers.end()) {
      summary.backend = chosen->backend;
      result.allocate(request.args);
    }
    const auto start = std::chrono::steady_clock::now();
    attend(request);  // or every backend's reasons
    summary.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  } catch (const InvalidArgument& error) {
    throw Error(locate(error, request, command.request));
  }
  if (request.sdpa) summary.recipe = to_string(request.sdpa->recipe);
  describe_out(result, request.args, summary);
  if (reference) summary.comparisons = compare_all(result, *reference);
  result.write(command.result);
  for (const std::string& file : {command.result.out_file, command.result.lse_file})
    if (!file.empty()) summary.files.push_back(file);
  if (!command.json.file.empty()) write_file(command.json.file, to_json(summary));
  fmt::print("{}", command.json.to_stdout ? to_json(summary) : to_text(summary));
  check_sqnr(command, summary);
}

}  // namespace

Command add_run(CLI::App& app) {
  const auto command = std::make_shared<RunCommand>();
  CLI::App* run_app = app.add_subcommand("run", "Run attention on tensors from files");
  add_run_options(*run_app, *command);
  return {run_app, [command] { run(*command); }};
}

}  // namespace sotto::cli

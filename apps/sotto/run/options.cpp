#include "run/options.h"

#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "command.h"
#include "output_file.h"

namespace sotto::cli {
namespace {

constexpr const char* kHelp = R"(Tensors
  Each tensor option takes FILE.npy, FILE.safetensors:NAME, FILE.safetensors (the tensor of the
  option's name) or a NAME in the file of --input. A tensor of --input whose name is that of an
  argument (q, k, v, k_descale, cu_seqlens_q, ...) is that argument, unless its option says
  otherwise; 'none' leaves it out. I64 is read as i32.

Files
  .safetensors takes everything; .npy takes neither bf16 nor e4m3, which NumPy does not have.
  --out FILE.safetensors holds out, lse, and the scales of a quantised out; FILE.npy holds out.

Examples
  sotto run --input qkv.safetensors --mask causal --out result.safetensors
  sotto run --input qkv.safetensors --recipe int8qk --compare result.safetensors --min-sqnr 28
  sotto run --q q.npy --k k.npy --v v.npy --layout bhsd --out out.npy --lse-out lse.npy
  sotto run --input cache.safetensors --mask causal-bottom-right --explain

Exit codes
  0 done, 1 something went wrong (a file, an illegal request, no backend, --min-sqnr not reached),
  2 the command line is wrong.)";

GranularityChoice parse_granularity(const std::string& option, const std::string& text) {
  constexpr std::string_view kBlock = "block:";
  if (text.starts_with(kBlock))
    return {Granularity::block, parse_count(option + " block:N", text.substr(kBlock.size()), 1)};
  return {parse_choice<Granularity>(option, text,
                                    {{"tensor", Granularity::tensor},
                                     {"head", Granularity::head},
                                     {"kv_head", Granularity::kv_head},
                                     {"token", Granularity::token}}),
          0};
}

void add_tensors(CLI::App& app, RunOptions& options) {
  app.add_option("--input", options.input, "File whose tensors are arguments by their names")
      ->type_name("FILE.safetensors");
  for (const TensorArgument& argument : tensor_arguments()) {
    std::string names = option_name(argument.name);
    if (!argument.alias.empty()) names += "," + option_name(argument.alias);
    const std::string name(argument.name);
    app.add_option_function<std::string>(
           names, [&options, name](const std::string& text) { options.sources[name] = text; },
           std::string(argument.description))
        ->type_name("TENSOR")
        ->group("Tensors");
  }
  for (const auto& [name, index] :
       {std::pair{"--q-granularity", 0U}, {"--k-granularity", 1U}, {"--v-granularity", 2U}})
    add_parsed(app, name, "KIND",
               "What shares a scale: tensor, head, kv_head, token or block:N; default: as the "
               "shape says",
               [&options, index = index](const std::string& option, const std::string& text) {
                 options.granularity[index] = parse_granularity(option, text);
               })
        ->group("Tensors");
  add_parsed(app, "--layout", "ORDER", "Of q, k, v and out in files: bshd (default) or bhsd",
             [&options](const std::string& option, const std::string& text) {
               options.layout = parse_choice<Layout>(
                   option, text, {{"bshd", Layout::bshd}, {"bhsd", Layout::bhsd}});
             })
      ->group("Tensors");
}

void add_attention(CLI::App& app, RunOptions& options) {
  const char* group = "Attention";
  add_parsed(app, "--mask", "KIND",
             "none (default), causal (top left), causal-bottom-right, window:LEFT,RIGHT",
             [&options](const std::string& option, const std::string& text) {
               options.mask = parse_mask(option, text);
             })
      ->group(group);
  add_parsed(
      app, "--align", "CORNER", "Move the mask's band: top-left or bottom-right",
      [&options](const std::string& option, const std::string& text) {
        options.align = parse_choice<Mask::Align>(
            option, text,
            {{"top-left", Mask::Align::top_left}, {"bottom-right", Mask::Align::bottom_right}});
      })
      ->group(group);
  add_number(app, "--scale", options.scale, "Of q·k; default: 1/sqrt(dim_qk)")->group(group);
  add_number(app, "--softcap", options.softcap, "Scores become X·tanh(score / X)")->group(group);
  add_count(app, "--max-len-q", options.max_len_q, "Upper bound of packed lengths", 0)
      ->group(group);
  add_count(app, "--max-len-k", options.max_len_k, "The same of the keys", 0)->group(group);
  add_count(app, "--num-splits", options.num_splits, "Parts that the keys are cut into", 0, 1 << 20)
      ->group(group);
  app.add_flag("--hadamard-v", options.hadamard_v,
               "v is Hadamard-transformed: undo it on the output")
      ->group(group);
  app.add_flag("--fast", options.fast, "A cheaper softmax where the backend has one")->group(group);
  add_parsed(app, "--accumulation", "KIND", "safe (default) or plain",
             [&options](const std::string& option, const std::string& text) {
               options.accumulation = parse_choice<Accumulation>(
                   option, text, {{"safe", Accumulation::safe}, {"plain", Accumulation::plain}});
             })
      ->group(group);
  add_number(app, "--dropout-p", options.dropout_p, "Refused, with what to do instead")
      ->group(group);
  app.add_flag("--needs-backward", options.needs_backward, "The same")->group(group);
  add_parsed(app, "--recipe", "RECIPE",
             "Quantise q, k and v inside (sdpa): exact, fp8, fp8-hadamard, int8qk, high, with "
             "members as int8qk+v_mean; without it, attention on the dtypes as they are",
             [&options](const std::string& option, const std::string& text) {
               options.recipe = parse_recipe(option, text);
             })
      ->group(group);
  app.add_flag("--interleaved", options.interleaved, "RoPE turns pairs (2d, 2d + 1), not halves")
      ->group(group);
  add_count(app, "--rotary-dim", options.rotary_dim, "Channels that RoPE turns; default: all", 1)
      ->group(group);
  add_backend(app, options.backend)->group(group);
}

void add_results(CLI::App& app, RunCommand& command) {
  const char* group = "Results";
  ResultOptions& result = command.result;
  add_parsed(app, "--out", "FILE", "Write the result: .safetensors or .npy",
             [&result](const std::string& option, const std::string& text) {
               check_ending(option, text, {".safetensors", ".npy"});
               result.out_file = text;
             })
      ->group(group);
  add_parsed(app, "--lse-out", "FILE", "Write the LSE by itself: .npy",
             [&result](const std::string& option, const std::string& text) {
               check_ending(option, text, {".npy"});
               result.lse_file = text;
             })
      ->group(group);
  app.add_flag("--no-lse{false}", result.lse, "Do not compute the LSE")->group(group);
  add_parsed(app, "--out-dtype", "DTYPE",
             "f32, f16, bf16, e4m3 or nvfp4; default: q's, or bf16 where q is 8-bit",
             [&result](const std::string& option, const std::string& text) {
               result.dtype = parse_choice<Dtype>(option, text,
                                                  {{"f32", Dtype::f32},
                                                   {"f16", Dtype::f16},
                                                   {"bf16", Dtype::bf16},
                                                   {"e4m3", Dtype::e4m3},
                                                   {"nvfp4", Dtype::e2m1x2}});
             })
      ->group(group);
  add_parsed(app, "--output-group", "N", "A scale for each N = 64 or 128 elements of an e4m3 out",
             [&result](const std::string& option, const std::string& text) {
               result.group = parse_choice<std::int64_t>(option, text, {{"64", 64}, {"128", 128}});
             })
      ->group(group);
  add_parsed(app, "--group-scale-dtype", "DTYPE", "Of these scales: f32 (default) or ue8m0",
             [&result](const std::string& option, const std::string& text) {
               result.ue8m0 = parse_choice<bool>(option, text, {{"f32", false}, {"ue8m0", true}});
             })
      ->group(group);
  app.add_option(
         "--compare", command.compare,
         "Compare with FILE[:NAME]: its tensor `out` (or NAME), and its `lse` if it has one")
      ->type_name("FILE")
      ->group(group);
  add_number(app, "--min-sqnr", command.min_sqnr, "Fail where --compare finds less, in dB")
      ->group(group);
}

}  // namespace

void add_run_options(CLI::App& app, RunCommand& command) {
  add_tensors(app, command.request);
  add_attention(app, command.request);
  add_results(app, command);
  app.add_flag("--explain", command.explain, "Print what every backend says to the request");
  add_threads(app, command.threads);
  add_json(app, command.json);
  app.footer(kHelp);
}

void check_run_options(const RunCommand& command) {
  const std::string& input = command.request.input;
  if (!input.empty()) check_ending("--input", input, {".safetensors"});
  if (command.min_sqnr && command.compare.empty())
    throw UsageError(fmt::format("--min-sqnr {}: needs --compare FILE", *command.min_sqnr));
  for (const std::string& file :
       {command.result.out_file, command.result.lse_file, command.json.file})
    if (!file.empty()) check_writable(file);
}

}  // namespace sotto::cli

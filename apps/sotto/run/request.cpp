#include "run/request.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include <fmt/format.h>

#include "command.h"
#include "option_values.h"

namespace sotto::cli {
namespace {

// The tables of RoPE, which is a part of sdpa() alone.
SdpaOptions& sdpa_of(RunRequest& request) {
  if (!request.sdpa) request.sdpa.emplace();
  return *request.sdpa;
}

constexpr std::array kArguments = {
    TensorArgument{"q", "", "q", "queries [batch, len_q, heads_q, dim_qk], or packed [total_q, …]",
                   [](RunRequest& r) -> Tensor& { return r.args.q; }},
    TensorArgument{"k", "", "k",
                   "keys [batch, len_k, heads_kv, dim_qk], packed, or [pages, "
                   "page_size, …]",
                   [](RunRequest& r) -> Tensor& { return r.args.k; }},
    TensorArgument{"v", "", "v", "values, as k with dim_v",
                   [](RunRequest& r) -> Tensor& { return r.args.v; }},
    TensorArgument{"q_descale", "", "descale.q", "scales of 8-bit q, f32",
                   [](RunRequest& r) -> Tensor& { return r.args.descale.q.values; }},
    TensorArgument{"k_descale", "", "descale.k", "scales of 8-bit k",
                   [](RunRequest& r) -> Tensor& { return r.args.descale.k.values; }},
    TensorArgument{"v_descale", "", "descale.v", "scales of e4m3 v",
                   [](RunRequest& r) -> Tensor& { return r.args.descale.v.values; }},
    TensorArgument{"q_cu_blocks", "", "descale.q.cu_blocks", "first block of each packed sequence",
                   [](RunRequest& r) -> Tensor& { return r.args.descale.q.cu_blocks; }},
    TensorArgument{"k_cu_blocks", "", "descale.k.cu_blocks", "the same for k",
                   [](RunRequest& r) -> Tensor& { return r.args.descale.k.cu_blocks; }},
    TensorArgument{"v_cu_blocks", "", "descale.v.cu_blocks", "the same for v",
                   [](RunRequest& r) -> Tensor& { return r.args.descale.v.cu_blocks; }},
    TensorArgument{"v_lo", "", "v_lo", "second e4m3 term of v",
                   [](RunRequest& r) -> Tensor& { return r.args.v_lo; }},
    TensorArgument{"dense_mask", "", "mask.dense",
                   "mask [batch or 1, heads_q or 1, len_q, len_k]: bool (true: may attend), or a "
                   "number that is added",
                   [](RunRequest& r) -> Tensor& { return r.args.mask.dense; }},
    TensorArgument{"sinks", "", "sinks", "a logit per query head for the denominator, [heads_q]",
                   [](RunRequest& r) -> Tensor& { return r.args.sinks; }},
    TensorArgument{"cu_seqlens_q", "", "seq.cu_seqlens_q", "[batch + 1]: q is packed",
                   [](RunRequest& r) -> Tensor& { return r.args.seq.cu_seqlens_q; }},
    TensorArgument{"cu_seqlens_k", "", "seq.cu_seqlens_k", "[batch + 1]: k and v are packed",
                   [](RunRequest& r) -> Tensor& { return r.args.seq.cu_seqlens_k; }},
    TensorArgument{"seqused_q", "", "seq.seqused_q", "[batch]: queries that count",
                   [](RunRequest& r) -> Tensor& { return r.args.seq.seqused_q; }},
    TensorArgument{"seqused_k", "cache_seqlens", "seq.seqused_k", "[batch]: keys that count",
                   [](RunRequest& r) -> Tensor& { return r.args.seq.seqused_k; }},
    TensorArgument{"page_table", "", "cache.page_table", "[batch, pages per sequence]",
                   [](RunRequest& r) -> Tensor& { return r.args.cache.page_table; }},
    TensorArgument{"batch_idx", "cache_batch_idx", "cache.batch_idx",
                   "[batch]: row of a dense cache",
                   [](RunRequest& r) -> Tensor& { return r.args.cache.batch_idx; }},
    TensorArgument{"k_mean", "", "smoothing.k_mean", "what was subtracted from k",
                   [](RunRequest& r) -> Tensor& { return r.args.smoothing.k_mean; }},
    TensorArgument{"row_bias", "", "smoothing.row_bias", "scale · q·k_mean of the unquantised q",
                   [](RunRequest& r) -> Tensor& { return r.args.smoothing.row_bias; }},
    TensorArgument{"key_bias", "", "smoothing.key_bias", "scale · q_mean·k",
                   [](RunRequest& r) -> Tensor& { return r.args.smoothing.key_bias; }},
    TensorArgument{"v_mean", "", "smoothing.v_mean", "what was subtracted from v",
                   [](RunRequest& r) -> Tensor& { return r.args.smoothing.v_mean; }},
    TensorArgument{"output_scale", "", "output.scale",
                   "[1]: scale of an e4m3 output, or NVFP4's global scale",
                   [](RunRequest& r) -> Tensor& { return r.args.output.scale; }},
    TensorArgument{"alibi_slopes", "", "alibi_slopes", "[heads_q]",
                   [](RunRequest& r) -> Tensor& { return r.args.alibi_slopes; }},
    TensorArgument{"cos", "", "rope.cos", "RoPE, with --recipe: [positions, rotary_dim or half]",
                   [](RunRequest& r) -> Tensor& { return sdpa_of(r).rope.cos; }},
    TensorArgument{"sin", "", "rope.sin", "as cos",
                   [](RunRequest& r) -> Tensor& { return sdpa_of(r).rope.sin; }},
    TensorArgument{"positions", "", "rope.positions", "rows of cos and sin, of the queries",
                   [](RunRequest& r) -> Tensor& { return sdpa_of(r).rope.positions; }},
    TensorArgument{"positions_k", "", "positions_k", "the same of the keys; absent: as positions",
                   [](RunRequest& r) -> Tensor& { return sdpa_of(r).positions_k; }},
};

constexpr std::string_view kLeaveOut = "none";

// Where an argument's tensor is, or nothing where the request has no such argument.
std::optional<TensorPlace> place_of(const TensorArgument& argument, const RunOptions& options,
                                    TensorFiles& files) {
  const auto given = options.sources.find(std::string(argument.name));
  if (given == options.sources.end()) {
    if (options.input.empty()) return std::nullopt;
    const models::TensorMap& tensors = files.tensors(options.input);
    const bool named = tensors.contains(argument.name);
    const bool aliased = !argument.alias.empty() && tensors.contains(argument.alias);
    if (named && aliased)
      throw UsageError(
          fmt::format("--input {}: has both '{}' and '{}', which are the same argument",
                      options.input, argument.name, argument.alias));
    if (!named && !aliased) return std::nullopt;
    return TensorPlace{options.input, std::string(named ? argument.name : argument.alias)};
  }
  const std::string& text = given->second;
  if (text == kLeaveOut) return std::nullopt;
  if (auto place = parse_place(text)) {
    if (place->name.empty() && !place->file.ends_with(".npy")) place->name = argument.name;
    return place;
  }
  if (options.input.empty())
    throw UsageError(fmt::format(
        "{}: expected FILE.npy, FILE.safetensors:NAME, or a name in the file of --input, got '{}'",
        option_name(argument.name), text));
  return TensorPlace{options.input, text};
}

// The library's order of dimensions, [batch, len, heads, dim], is a view of the other one.
Tensor in_layout(const Tensor& tensor, Layout layout) {
  if (layout == Layout::bshd || tensor.rank < 3) return tensor;
  return tensor.transposed(tensor.rank - 3, tensor.rank - 2);
}

void settle_scale(Scale& scale, const std::optional<GranularityChoice>& choice) {
  if (!scale) return;
  const Tensor cu_blocks = scale.cu_blocks;
  scale = Scale(scale.values);
  scale.cu_blocks = cu_blocks;
  if (!choice) return;
  scale.granularity = choice->granularity;
  scale.block = choice->block;
}

// Options that go with other options only.
void check_combination(const RunRequest& request, const RunOptions& options) {
  for (const char* name : {"q", "k", "v"})
    if (!request.used.contains(name))
      throw UsageError(fmt::format(
          "{}: expected a tensor: FILE.npy, FILE.safetensors:NAME, or --input FILE that has '{}'",
          option_name(name), name));
  // RoPE is a part of sdpa, and nothing without its tables.
  const auto refuse_rope = [&](std::initializer_list<const char*> tensors,
                               const std::string& instead) {
    for (const char* name : tensors)
      if (const auto found = request.used.find(name); found != request.used.end())
        throw UsageError(fmt::format("{} {}: is for RoPE: {}, or {} none", option_name(name),
                                     found->second.text(), instead, option_name(name)));
    if (options.interleaved) throw UsageError("--interleaved: is for RoPE: " + instead);
    if (options.rotary_dim > 0)
      throw UsageError(
          fmt::format("--rotary-dim {}: is for RoPE: {}", options.rotary_dim, instead));
  };
  if (!options.recipe)
    return refuse_rope({"cos", "sin", "positions", "positions_k"},
                       "give --recipe (exact, to quantise nothing) with --cos and --sin");
  if (!request.used.contains("cos"))
    refuse_rope({"sin", "positions", "positions_k"}, "give --cos and --sin");
  if (options.fast) throw UsageError("--fast: is a part of the recipe: --recipe NAME+fast");
  if (options.accumulation)
    throw UsageError("--accumulation: is a part of the recipe: --recipe NAME+accumulation=...");
}

}  // namespace

std::span<const TensorArgument> tensor_arguments() { return kArguments; }

std::string option_name(std::string_view name) {
  std::string option = fmt::format("--{}", name);
  std::replace(option.begin(), option.end(), '_', '-');
  return option;
}

Mask parse_mask(const std::string& option, const std::string& text) {
  if (text == "none") return Mask::none();
  if (text == "causal") return Mask::causal();
  if (text == "causal-bottom-right") return Mask::causal_bottom_right();
  constexpr std::string_view kWindow = "window:";
  if (text.starts_with(kWindow)) {
    const std::vector<std::string> sides = split(text.substr(kWindow.size()));
    if (sides.size() == 2)
      return Mask::window(parse_count(option + " window:LEFT", sides[0], -1),
                          parse_count(option + " window:RIGHT", sides[1], -1));
  }
  throw UsageError(fmt::format(
      "{}: expected none, causal, causal-bottom-right or window:LEFT,RIGHT (-1: unbounded), got "
      "'{}'",
      option, text));
}

Dtype parse_dtype(const std::string& option, const std::string& text) {
  return parse_choice<Dtype>(option, text,
                             {{"f32", Dtype::f32},
                              {"f16", Dtype::f16},
                              {"bf16", Dtype::bf16},
                              {"e4m3", Dtype::e4m3},
                              {"i8", Dtype::i8}});
}

RunRequest make_request(const RunOptions& options) {
  RunRequest request;
  for (const TensorArgument& argument : kArguments) {
    const auto place = place_of(argument, options, request.files);
    if (!place) continue;
    argument.of(request) = request.files.load(*place);
    request.used.emplace(argument.name, *place);
  }
  check_combination(request, options);

  AttentionArgs& args = request.args;
  for (Tensor* tensor : {&args.q, &args.k, &args.v, &args.v_lo})
    *tensor = in_layout(*tensor, options.layout);
  settle_scale(args.descale.q, options.granularity[0]);
  settle_scale(args.descale.k, options.granularity[1]);
  settle_scale(args.descale.v, options.granularity[2]);
  const Tensor dense = args.mask.dense;
  args.mask = options.mask;
  args.mask.dense = dense;
  if (options.align) args.mask.align = *options.align;
  if (options.scale) args.scale = static_cast<float>(*options.scale);
  args.softcap = static_cast<float>(options.softcap.value_or(0));
  args.dropout_p = static_cast<float>(options.dropout_p.value_or(0));
  args.seq.max_len_q = options.max_len_q;
  args.seq.max_len_k = options.max_len_k;
  args.num_splits = static_cast<int>(options.num_splits);
  args.hadamard_v = options.hadamard_v;
  args.fast = options.fast;
  args.accumulation = options.accumulation.value_or(Accumulation::safe);
  args.needs_backward = options.needs_backward;
  args.backend = options.backend;
  if (options.recipe) {
    SdpaOptions& sdpa = sdpa_of(request);
    sdpa.recipe = *options.recipe;
    sdpa.rope.interleaved = options.interleaved;
    sdpa.rope.rotary_dim = options.rotary_dim;
  }
  return request;
}

std::string locate(const InvalidArgument& error, const RunRequest& request,
                   const RunOptions& options) {
  const std::string what = error.what();
  for (const TensorArgument& argument : kArguments)
    if (argument.api == error.argument())
      if (const auto used = request.used.find(std::string(argument.name));
          used != request.used.end())
        return fmt::format("{} {}: {}", option_name(argument.name), used->second.text(), what);
  const auto number = [](const std::optional<double>& value) {
    return value ? fmt::format("{}", *value) : "";
  };
  const std::pair<std::string_view, std::string> scalars[] = {
      {"scale", number(options.scale)},
      {"softcap", number(options.softcap)},
      {"dropout_p", number(options.dropout_p)},
      {"rope.rotary_dim", fmt::format("{}", options.rotary_dim)},
      {"seq.max_len_q", fmt::format("{}", options.max_len_q)},
      {"seq.max_len_k", fmt::format("{}", options.max_len_k)}};
  for (const auto& [name, value] : scalars)
    if (name == error.argument())
      return fmt::format("{} {}: {}", option_name(name.substr(name.find('.') + 1)), value, what);
  return what;
}

}  // namespace sotto::cli

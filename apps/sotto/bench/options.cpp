#include "bench/options.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "command.h"
#include "core/element.h"
#include "output_file.h"
#include "run/request.h"

namespace sotto::cli {
namespace {

constexpr const char* kHelp = R"(Lists
  --op, --recipe, --dtype, --len, --len-q, --len-k, --dim-qk and --mask take several values,
  separated by commas; every combination is measured. k and m stand for 1024 and 1048576: 16k.
  Masks with a window are written window:LEFT,RIGHT and stand alone.

Operations
  attention  attention alone; with a recipe, on inputs that are quantised already
  sdpa       quantisation and attention
  quantize   the recipe's quantisation of q, k and v
  append     len-q new tokens into a cache of len-k

Figures
  Medians. GFLOP/s: 2 (dim_qk + dim_v) for every query, query head and key that the mask shows.
  GB/s: inputs and outputs, once each. Of roof: the time that this machine's own matrix products
  (for the dtypes at hand) and memory would need at least, divided by the time that was measured;
  on a GPU those of the matrix products are the chip's nominal ones.
  Extra MiB: the most memory that a call took beside inputs, outputs and quantised copies.

Examples
  sotto bench --len 1k,4k,16k --mask causal --recipe exact,fp8,int8qk
  sotto bench --decode --len-k 32k --heads-q 32 --heads-kv 8 --dim-qk 128 --dtype bf16,bf16/e4m3
  sotto bench --device cuda --len 4k,16k --heads-q 32 --dim-qk 128 --mask none,causal
  sotto bench --json before.json && make && sotto bench --against before.json --plot now.svg

Exit codes
  0 done, 1 something went wrong (a file, memory, nothing that a backend runs), 2 the command line
  is wrong.)";

constexpr std::int64_t kMaxSize = std::int64_t{1} << 40;

template <class T, class F>
CLI::Option* add_list(CLI::App& app, const std::string& option, std::vector<T>& list,
                      const std::string& description, F parse) {
  return add_parsed(app, option, "LIST", description,
                    [&list, parse](const std::string& name, const std::string& text) {
                      list.clear();
                      for (const std::string& part : split(text)) list.push_back(parse(name, part));
                    });
}

CLI::Option* add_counts(CLI::App& app, const std::string& option, std::vector<std::int64_t>& list,
                        const std::string& description) {
  return add_list(app, option, list, description,
                  [](const std::string& name, const std::string& text) {
                    return parse_count(name, text, 1, kMaxSize);
                  });
}

std::int64_t check_head_size(const std::string& option, std::int64_t dim) {
  if (dim != 512 && (dim < 16 || dim > 256 || dim % 16 != 0))
    throw UsageError(
        fmt::format("{}: expected a multiple of 16 from 16 to 256, or 512, got {}", option, dim));
  return dim;
}

BenchDtypes parse_dtypes(const std::string& option, const std::string& text) {
  BenchDtypes dtypes{.text = text};
  const std::size_t first = text.find('/');
  const std::size_t second = first == std::string::npos ? first : text.find('/', first + 1);
  dtypes.q = parse_dtype(option, text.substr(0, first));
  dtypes.k = dtypes.v = dtypes.q;
  if (first != std::string::npos)
    dtypes.k = dtypes.v = parse_dtype(option, text.substr(first + 1, second - first - 1));
  if (second != std::string::npos) dtypes.v = parse_dtype(option, text.substr(second + 1));
  return dtypes;
}

Device parse_device(const std::string& option, const std::string& text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {DeviceType::cuda, 0};
  constexpr std::int64_t kMostDevices = 1024;
  if (text.starts_with("cuda:"))
    return {DeviceType::cuda,
            static_cast<int>(parse_count(option, text.substr(5), 0, kMostDevices))};
  throw UsageError(fmt::format("{}: expected cpu, cuda or cuda:N, got '{}'", option, text));
}

KvLayout layout_of(const BenchOptions& options) {
  if (options.varlen && (options.cache || options.decode || options.page_size > 0))
    throw UsageError(
        "--varlen: packed keys are no cache; leave out --cache, --decode, --page-size");
  if (options.varlen) return KvLayout::varlen;
  if (options.page_size > 0) return KvLayout::paged;
  return options.cache || options.decode ? KvLayout::cache : KvLayout::dense;
}

std::vector<std::pair<std::int64_t, std::int64_t>> lengths(const BenchOptions& options) {
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  if (options.decode && !options.len_q.empty())
    throw UsageError(
        fmt::format("--len-q {}: --decode has one query a sequence", options.len_q[0]));
  const std::vector<std::int64_t> one = {1};
  const auto& queries = options.decode ? one : options.len_q.empty() ? options.len : options.len_q;
  if (!options.decode && options.len_q.empty() && options.len_k.empty()) {
    for (const std::int64_t len : options.len) pairs.emplace_back(len, len);
    return pairs;
  }
  for (const std::int64_t q : queries)
    for (const std::int64_t k : options.len_k.empty() ? options.len : options.len_k)
      pairs.emplace_back(q, k);
  return pairs;
}

// The operations and recipes that go with the dtypes; what makes no sense is left out of the
// product.
void add_operations(const BenchOptions& options, const BenchCase& shape,
                    std::vector<BenchCase>& cases) {
  const bool quantized = core::is_quantized(shape.dtypes.q) || core::is_quantized(shape.dtypes.k);
  for (const BenchOp op : options.ops) {
    BenchCase bench = shape;
    bench.op = op;
    if (op == BenchOp::append && shape.layout == KvLayout::varlen)
      throw UsageError("--op append: packed keys (--varlen) are no cache");
    if (op == BenchOp::append && shape.len_q > shape.len_k)
      throw UsageError(
          fmt::format("--op append: --len-q {} new tokens need a cache of as many, "
                      "--len-k {}",
                      shape.len_q, shape.len_k));
    if (op == BenchOp::append || (op == BenchOp::attention && quantized)) {
      cases.push_back(bench);
      continue;
    }
    if (quantized) continue;  // sdpa() and quantize() start from 16 or 32 bits
    for (const std::string& recipe : options.recipes) {
      if (op == BenchOp::quantize && Recipe::parse(recipe) == Recipe::exact()) continue;
      bench.recipe = recipe;
      cases.push_back(bench);
    }
  }
}

}  // namespace

void add_bench_options(CLI::App& app, BenchOptions& options) {
  add_list(app, "--op", options.ops, "What is timed: attention, sdpa, quantize, append",
           [](const std::string& name, const std::string& text) {
             return parse_choice<BenchOp>(name, text,
                                          {{"attention", BenchOp::attention},
                                           {"sdpa", BenchOp::sdpa},
                                           {"quantize", BenchOp::quantize},
                                           {"append", BenchOp::append}});
           })
      ->default_str("attention,sdpa");
  add_list(app, "--recipe", options.recipes, "exact, fp8, fp8-hadamard, int8qk, high, with members",
           [](const std::string& name, const std::string& text) {
             parse_recipe(name, text);
             return text;
           })
      ->default_str("exact,fp8,int8qk");
  add_list(app, "--dtype", options.dtypes,
           "f32, f16, bf16, e4m3, i8: of all, as q/kv (a quantised cache: bf16/e4m3) or as q/k/v",
           parse_dtypes)
      ->default_str("bf16");
  add_parsed(app, "--dtype-out", "DTYPE", "f32, f16 or bf16; default: q's, or bf16",
             [&options](const std::string& name, const std::string& text) {
               options.dtype_out = parse_choice<Dtype>(
                   name, text, {{"f32", Dtype::f32}, {"f16", Dtype::f16}, {"bf16", Dtype::bf16}});
             });
  const char* shape = "Shape";
  add_count(app, "--batch", options.batch, "Sequences", 1, kMaxSize)
      ->default_str("1")
      ->group(shape);
  add_counts(app, "--len", options.len, "Tokens of queries and of keys")
      ->default_str("1k,4k")
      ->group(shape);
  add_counts(app, "--len-q", options.len_q, "Queries, where there are as many keys or --len-k")
      ->group(shape);
  add_counts(app, "--len-k", options.len_k, "Keys")->group(shape);
  add_count(app, "--heads-q", options.heads_q, "Query heads", 1, kMaxSize)
      ->default_str("8")
      ->group(shape);
  add_count(app, "--heads-kv", options.heads_kv, "KV heads; default: as --heads-q", 1, kMaxSize)
      ->group(shape);
  add_list(app, "--dim-qk", options.dim_qk, "Head size of q and k",
           [](const std::string& name, const std::string& text) {
             return check_head_size(name, parse_count(name, text, 1));
           })
      ->default_str("64")
      ->group(shape);
  add_parsed(app, "--dim-v", "N", "Head size of v; default: as --dim-qk",
             [&options](const std::string& name, const std::string& text) {
               options.dim_v = check_head_size(name, parse_count(name, text, 1));
             })
      ->group(shape);
  add_parsed(app, "--mask", "LIST",
             "none (default), causal, causal-bottom-right, or window:LEFT,RIGHT",
             [&options](const std::string& name, const std::string& text) {
               options.masks.clear();
               if (text.starts_with("window:")) {
                 options.masks.push_back({text, parse_mask(name, text)});
                 return;
               }
               for (const std::string& part : split(text))
                 options.masks.push_back({part, parse_mask(name, part)});
             })
      ->group(shape);
  add_parsed(app, "--softcap", "X", "Scores become X·tanh(score / X)",
             [&options](const std::string& name, const std::string& text) {
               options.softcap = parse_number(name, text);
               if (*options.softcap < 0)
                 throw UsageError(
                     fmt::format("{}: expected 0 or a positive number, got '{}'", name, text));
             })
      ->group(shape);
  app.add_flag("--varlen", options.varlen,
               "Packed sequences, of half to all of the length in equal steps")
      ->group(shape);
  app.add_flag("--cache", options.cache, "Keys and values are a cache, with lengths in a tensor")
      ->group(shape);
  add_count(app, "--page-size", options.page_size, "A paged cache, its pages in random order", 1,
            kMaxSize)
      ->group(shape);
  app.add_flag("--decode", options.decode, "One query a sequence over a cache")->group(shape);

  const char* measuring = "Measuring";
  add_parsed(app, "--device", "DEVICE", "cpu (default), cuda or cuda:N",
             [&options](const std::string& name, const std::string& text) {
               options.device = parse_device(name, text);
             })
      ->group(measuring);
  add_backend(app, options.backend)->group(measuring);
  add_threads(app, options.threads)->group(measuring);
  add_count(app, "--warmup", options.warmup, "Calls before the first that counts", 0, 1000)
      ->default_str("1")
      ->group(measuring);
  add_count(app, "--repeats", options.repeats, "Calls that count", 1, 100000)
      ->default_str("10")
      ->group(measuring);
  add_parsed(app, "--max-seconds", "X", "Of a case: no further call begins after this; default: 10",
             [&options](const std::string& name, const std::string& text) {
               options.max_seconds = parse_number(name, text);
               if (*options.max_seconds < 0)
                 throw UsageError(fmt::format("{}: expected at least 0, got '{}'", name, text));
             })
      ->group(measuring);
  app.add_flag("--no-roofs", options.no_roofs, "Do not measure the machine's roofs")
      ->group(measuring);

  add_json(app, options.json);
  add_parsed(app, "--against", "FILE", "Print ratios to an earlier --json FILE",
             [&options](const std::string& name, const std::string& text) {
               check_ending(name, text, {".json"});
               options.against = text;
             });
  add_parsed(app, "--plot", "FILE", "Draw the figures (.svg)",
             [&options](const std::string& name, const std::string& text) {
               check_ending(name, text, {".svg"});
               options.plot = text;
             });
  app.footer(kHelp);
}

std::vector<BenchCase> bench_cases(const BenchOptions& options) {
  BenchCase shape;
  shape.device = options.device;
  shape.batch = options.batch;
  shape.heads_q = options.heads_q;
  shape.heads_kv = options.heads_kv > 0 ? options.heads_kv : options.heads_q;
  shape.softcap = options.softcap.value_or(0);
  shape.layout = layout_of(options);
  shape.page_size = options.page_size;
  if (shape.heads_q % shape.heads_kv != 0)
    throw UsageError(fmt::format("--heads-kv {}: expected a divisor of --heads-q {}",
                                 shape.heads_kv, shape.heads_q));
  std::vector<BenchCase> cases;
  for (const BenchMask& mask : options.masks)
    for (const std::int64_t dim : options.dim_qk)
      for (const auto& [len_q, len_k] : lengths(options))
        for (const BenchDtypes& dtypes : options.dtypes) {
          shape.mask = mask;
          shape.dim_qk = dim;
          shape.dim_v = options.dim_v > 0 ? options.dim_v : dim;
          shape.len_q = len_q;
          shape.len_k = len_k;
          shape.dtypes = dtypes;
          shape.dtypes.out =
              options.dtype_out.value_or(core::is_quantized(dtypes.q) ? Dtype::bf16 : dtypes.q);
          add_operations(options, shape, cases);
        }
  if (cases.empty())
    throw UsageError(
        "--op: nothing to measure: sdpa and quantize need f32, f16 or bf16 q, k and v, and "
        "quantize a --recipe other than exact");
  for (const std::string& file : {options.json.file, options.plot})
    if (!file.empty()) check_writable(file);
  return cases;
}

}  // namespace sotto::cli

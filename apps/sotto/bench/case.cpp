#include "bench/case.h"

#include <fmt/format.h>

namespace sotto::cli {
namespace {

// "8", or "32/8" where the two differ.
std::string pair_text(std::int64_t first, std::int64_t second) {
  return first == second ? fmt::format("{}", first) : fmt::format("{}/{}", first, second);
}

}  // namespace

std::string_view op_name(BenchOp op) {
  switch (op) {
    case BenchOp::attention:
      return "attention";
    case BenchOp::sdpa:
      return "sdpa";
    case BenchOp::quantize:
      return "quantize";
    case BenchOp::append:
      return "append";
  }
  return "";
}

std::string_view layout_name(KvLayout layout) {
  switch (layout) {
    case KvLayout::dense:
      return "dense";
    case KvLayout::varlen:
      return "varlen";
    case KvLayout::cache:
      return "cache";
    case KvLayout::paged:
      return "paged";
  }
  return "";
}

std::vector<std::pair<std::string, std::string>> describe(const BenchCase& bench) {
  return {{"op", std::string(op_name(bench.op))},
          {"recipe", bench.recipe.empty() ? "-" : bench.recipe},
          {"dtype", bench.dtypes.text},
          {"out", std::string(dtype_name(bench.dtypes.out))},
          {"batch", fmt::format("{}", bench.batch)},
          {"len", pair_text(bench.len_q, bench.len_k)},
          {"heads", pair_text(bench.heads_q, bench.heads_kv)},
          {"dim", pair_text(bench.dim_qk, bench.dim_v)},
          {"mask", bench.mask.text},
          {"softcap", fmt::format("{:g}", bench.softcap)},
          {"layout", bench.layout == KvLayout::paged ? fmt::format("pages of {}", bench.page_size)
                                                     : std::string(layout_name(bench.layout))}};
}

std::string key_of(const BenchCase& bench) {
  std::string key;
  for (const auto& [name, value] : describe(bench))
    key += fmt::format("{}{} {}", key.empty() ? "" : ", ", name, value);
  return key;
}

}  // namespace sotto::cli

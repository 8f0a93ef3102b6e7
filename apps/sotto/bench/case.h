// What `sotto bench` measures: one operation on one shape.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sotto/attention.h"
#include "sotto/recipe.h"

namespace sotto::cli {

enum class BenchOp {
  attention,  // on inputs that are quantised already
  sdpa,       // with quantisation
  quantize,   // quantisation alone
  append,     // new keys and values into a cache
};
std::string_view op_name(BenchOp op);

// "bf16", "bf16/e4m3" (q/kv) or "bf16/i8/e4m3" (q/k/v).
struct BenchDtypes {
  std::string text;
  Dtype q{}, k{}, v{}, out{};
};

struct BenchMask {
  std::string text;
  Mask mask = {};
};

// How the keys and values lie.
enum class KvLayout {
  dense,
  varlen,  // packed; the sequences' lengths go from half to all of len_q and len_k in equal steps
  cache,   // dense, with the lengths in a tensor
  paged,
};
std::string_view layout_name(KvLayout layout);

struct BenchCase {
  Device device;
  BenchOp op{};
  std::string recipe;  // empty: none, the dtypes as they are
  BenchDtypes dtypes;
  std::int64_t batch = 1, len_q = 0, len_k = 0, heads_q = 0, heads_kv = 0, dim_qk = 0, dim_v = 0;
  BenchMask mask;
  double softcap = 0;
  KvLayout layout{};
  std::int64_t page_size = 0;  // where paged
};

// What tells one case from another, in the words of the options: (name, value).
std::vector<std::pair<std::string, std::string>> describe(const BenchCase& bench);

// These in one line: cases of two runs with equal keys are the same.
std::string key_of(const BenchCase& bench);

}  // namespace sotto::cli

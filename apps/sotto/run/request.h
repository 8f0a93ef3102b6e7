// What `sotto run` was asked, and the library's request that it makes of this.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "run/tensor_files.h"
#include "sotto/sdpa.h"

namespace sotto::cli {

// A request and what its views look into.
struct RunRequest {
  AttentionArgs args = {};
  std::optional<SdpaOptions> sdpa = {};     // given: sdpa(); absent: attention() on what is there
  std::map<std::string, TensorPlace> used;  // argument → where it came from
  TensorFiles files = {};
};

// A tensor of the request. Its option is --name with dashes, its name in a file `name` (or
// `alias`).
struct TensorArgument {
  std::string_view name, alias;
  std::string_view api;  // what the library calls it
  std::string_view description;
  Tensor& (*of)(RunRequest& request);
};
std::span<const TensorArgument> tensor_arguments();
// "--cu-seqlens-q" of "cu_seqlens_q".
std::string option_name(std::string_view name);

enum class Layout { bshd, bhsd };

struct GranularityChoice {
  Granularity granularity{};
  std::int64_t block = 0;
};

struct RunOptions {
  std::string input;                           // .safetensors that tensors are looked up in
  std::map<std::string, std::string> sources;  // argument → text of its option
  Layout layout = Layout::bshd;
  // Of q_descale, k_descale, v_descale; absent: as their shapes say.
  std::array<std::optional<GranularityChoice>, 3> granularity;
  Mask mask = {};
  std::optional<Mask::Align> align;
  std::optional<double> scale, softcap, dropout_p;
  std::int64_t max_len_q = 0, max_len_k = 0, num_splits = 0, rotary_dim = 0;
  bool hadamard_v = false, fast = false, needs_backward = false, interleaved = false;
  std::optional<Accumulation> accumulation;
  std::optional<Recipe> recipe;
  std::string backend;
};

// "none", "causal", "causal-bottom-right", "window:LEFT,RIGHT". Throws UsageError.
Mask parse_mask(const std::string& option, const std::string& text);
// "bf16", "e4m3", …: one of q's, k's and v's dtypes. Throws UsageError.
Dtype parse_dtype(const std::string& option, const std::string& text);

// Loads the tensors. Throws UsageError, models::FileError. `options` must outlive the request.
RunRequest make_request(const RunOptions& options);

// The library's complaint with the option and the value, or the file, that it is about.
std::string locate(const InvalidArgument& error, const RunRequest& request,
                   const RunOptions& options);

}  // namespace sotto::cli

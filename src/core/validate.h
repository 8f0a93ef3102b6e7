// What a legal request is. Every function throws InvalidArgument and writes nothing.
//
// check…(): what shapes, dtypes, strides, devices and pointers tell; on every plan and every run.
// check_contents(): what the data of host tensors (lengths, offsets, page tables, positions, scales
// of the output) tells; before every run. Of device tensors only the pointers are looked at:
// kernels clamp or skip.
#pragma once

#include <string>
#include <string_view>

#include "core/check.h"
#include "core/output.h"
#include "sotto/backend.h"

namespace sotto::core {

// describe() in backend.h checks AttentionArgs.
void check_contents(const AttentionArgs& args, const Problem& problem);

// Before describe(), whose texts know of quantised inputs: sdpa() takes none.
void check_takes_floats(const AttentionArgs& args);

// On top of describe(): what sdpa() asks of its inputs and options.
void check(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem);
void check_contents(const AttentionArgs& args, const SdpaOptions& options, const Problem& problem);

void check(const QuantizeArgs& args);
void check_contents(const QuantizeArgs& args);

void check(const ChannelMeanArgs& args);
void check_contents(const ChannelMeanArgs& args);

void check(const AppendKvArgs& args);
void check_contents(const AppendKvArgs& args);

void check(const MergeArgs& args);
void check_contents(const MergeArgs& args);

// Parts that several of them share.

// The sizes of a tensor of tokens: [batch, len, heads, dim] or packed [total, heads, dim].
struct TokenShape {
  std::int64_t batch = 0;
  std::int64_t len = 0;   // of the longest sequence that the shape allows
  std::int64_t rows = 0;  // batch · len, or total
  std::int64_t heads = 0, dim = 0;
  bool packed = false;
};
TokenShape token_shape(std::string_view argument, const Tensor& tensor, const Tensor& cu_seqlens,
                       std::string_view cu_argument);

// Names of a scale's tensors follow `argument`: "descale.q".
struct ScaleContext {
  std::string_view argument;
  TokenShape tokens;
  std::int64_t heads_kv = 0;   // for Granularity::kv_head
  std::int64_t page_size = 0;  // > 0: token scales are [pages, page_size, heads]
  std::int64_t pages = 0;
  std::int64_t rows = 0;  // token scales of a dense tensor: its first dimension
  Device device;
  Access access = Access::read;
};
void check_scale(const Scale& scale, const ScaleContext& context);

void check_rope(const Rope& rope, const TokenShape& tokens, const Device& device);

// The output tensor and its quantisation, for `tokens` with dim = dim_v.
OutputFormat check_output(const Tensor& out, const OutputQuant& output, const TokenShape& tokens,
                          const Device& device);
// The sizes of the states of a merge, each [batch, len_q, heads_q, dim_v] or [total_q, heads_q,
// dim_v]; packed ones count as one sequence.
TokenShape shape_of_states(const MergeArgs& args);
void check_output_contents(const OutputQuant& output);

// Offsets [batch + 1]: not negative, not decreasing, at most `total`.
void check_cu_seqlens(std::string_view argument, const Tensor& cu_seqlens, std::int64_t total);
// Lengths [batch] of sequences that are `tokens.len` long, or as cu_seqlens says.
void check_seqused(std::string_view argument, const Tensor& seqused, const TokenShape& tokens,
                   const Tensor& cu_seqlens);
// Positions of valid tokens, given or by index, lie within the tables. seqused may be absent.
void check_rope_contents(const Rope& rope, const TokenShape& tokens, const Tensor& cu_seqlens,
                         const Tensor& seqused);
// Offsets of the blocks of packed scales: as many as each sequence needs, within the tensor.
void check_cu_blocks(std::string_view argument, const Scale& scale, const Tensor& cu_seqlens,
                     std::int64_t batch);

// The difference between two Problems in words ("len_q was 128 in the plan, is 256"), or empty.
std::string first_difference(const Problem& plan, const Problem& now);

}  // namespace sotto::core

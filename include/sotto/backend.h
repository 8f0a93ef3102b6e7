/// @file
/// Backends: what they are asked, how one is chosen, and why not the others.
///
/// Selection: the backend named in the request (args.backend), else the activated one, else the one
/// in SOTTO_BACKEND, else the able one of the highest priority. SOTTO_DISABLE=name,name takes
/// backends out of the last step. SOTTO_LOG=explain logs every selection's table, =debug also the
/// plan. The environment is read at every selection; names that nobody has, and a SOTTO_LOG that is
/// neither, are InvalidArgument there and in current().
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sotto/attention.h"
#include "sotto/export.h"
#include "sotto/kv_cache.h"
#include "sotto/merge.h"
#include "sotto/quantize.h"
#include "sotto/sdpa.h"

namespace sotto {

/// What `out` holds.
enum class OutputKind : std::uint8_t {
  plain,       ///< f32, f16 or bf16
  fp8,         ///< e4m3 with one scale
  fp8_groups,  ///< e4m3 with a scale for each group of channels
  nvfp4,       ///< e2m1 with a scale for each 16 channels and a global one
};

/// A legal AttentionArgs, in numbers: what a plan depends on.
///
/// Two requests with equal Problems may share a plan.
struct Problem {
  Device device;                 ///< of every tensor
  std::int64_t batch = 0;        ///< sequences
  std::int64_t len_q = 0;        ///< of the longest sequence that the shapes and max_len allow
  std::int64_t len_k = 0;        ///< the same for the keys
  std::int64_t rows_q = 0;       ///< tokens in q: batch · len_q, or total_q
  std::int64_t total_k = 0;      ///< tokens in k, where packed
  std::int64_t heads_q = 0;      ///< a multiple of heads_kv
  std::int64_t heads_kv = 0;     ///< of k and v
  std::int64_t dim_qk = 0;       ///< head size of q and k
  std::int64_t dim_v = 0;        ///< head size of v and out
  std::int64_t page_size = 0;    ///< tokens; 0: not paged
  bool packed_q = false;         ///< seq.cu_seqlens_q is there
  bool packed_k = false;         ///< seq.cu_seqlens_k is there
  bool seqused_q = false;        ///< seq.seqused_q is there
  bool seqused_k = false;        ///< seq.seqused_k is there
  bool batch_idx = false;        ///< cache.batch_idx is there
  Dtype dtype_q{};               ///< of q
  Dtype dtype_k{};               ///< of k
  Dtype dtype_v{};               ///< of v
  Dtype dtype_out{};             ///< of out
  Granularity granularity_q{};   ///< of descale.q
  Granularity granularity_k{};   ///< of descale.k
  Granularity granularity_v{};   ///< of descale.v
  std::int64_t block_q = 0;      ///< tokens that share a descale.q, for Granularity::block
  std::int64_t block_k = 0;      ///< tokens that share a descale.k, for Granularity::block
  std::int64_t block_v = 0;      ///< tokens that share a descale.v, for Granularity::block
  float scale = 0;               ///< of q·k, the default filled in
  float softcap = 0;             ///< 0: none
  std::int64_t mask_left = -1;   ///< as Mask::left
  std::int64_t mask_right = -1;  ///< as Mask::right
  Mask::Align mask_align{};      ///< as Mask::align
  bool dense_mask = false;       ///< mask.dense is there
  bool lse = false;              ///< lse is to be written
  bool sinks = false;            ///< sinks are there
  bool k_mean = false;           ///< smoothing.k_mean is there
  bool row_bias = false;         ///< smoothing.row_bias is there
  bool key_bias = false;         ///< smoothing.key_bias is there
  bool v_mean = false;           ///< smoothing.v_mean is there
  bool v_lo = false;             ///< v_lo is there
  bool hadamard_v = false;       ///< the output is to be transformed back
  OutputKind output{};           ///< what out holds
  std::int64_t group = 0;        ///< elements per output scale: 64 or 128, 16 for NVFP4
  bool p_e4m3 = false;           ///< P is rounded to e4m3 (see AttentionArgs)
  bool fast = false;             ///< see Recipe
  Accumulation accumulation{};   ///< see Recipe
  int num_splits = 0;            ///< as AttentionArgs::num_splits
  bool dropout = false;          ///< asked for
  bool alibi = false;            ///< asked for
  bool backward = false;         ///< asked for

  /// Member by member.
  bool operator==(const Problem&) const = default;
};

/// Checks everything that can be checked on the host, throws InvalidArgument, or returns the
/// Problem. Contents of host tensors (lengths, page tables) are checked when a plan runs.
SOTTO_API Problem describe(const AttentionArgs& args);

/// Why not, each with what to do instead; empty means yes.
using Reasons = std::vector<std::string>;

/// What a backend's plan() returns: one way of attending, for requests of one Problem.
///
/// Immutable, and called from several threads.
class SOTTO_API AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  /// Bytes that run() needs, 64-byte aligned.
  virtual std::size_t workspace_size() const = 0;
  /// Attends. The request is valid and has the Problem of the plan; the workspace is large enough.
  virtual void run(const AttentionArgs& args, Workspace workspace, Stream stream) const = 0;
};

/// The same for sdpa(), in its two steps.
class SOTTO_API SdpaKernel {
 public:
  virtual ~SdpaKernel() = default;
  /// Bytes that both steps need, 64-byte aligned: quantised copies and scratch.
  virtual std::size_t workspace_size() const = 0;
  /// The recipe that the plan was made with.
  virtual const Recipe& recipe() const = 0;
  /// Quantises Q, K and V into the workspace.
  virtual QuantizedQkv quantize(const AttentionArgs& args, const SdpaOptions& options,
                                Workspace workspace, Stream stream) const = 0;
  /// Attends over what quantize() made in the same workspace.
  virtual void attend(const QuantizedQkv& qkv, Workspace workspace, Stream stream) const = 0;

 protected:
  /// For quantize(): only kernels make a QuantizedQkv.
  static QuantizedQkv make_qkv(const AttentionArgs& args) { return QuantizedQkv(args); }
};

/// One implementation of the operations on some kind of device.
///
/// Arguments are validated before a backend sees them. A backend lists all its reasons for no,
/// knows no other backend, keeps no state between calls, and is called from several threads. When
/// it plans or runs, the tensors' GPU is the calling thread's current device.
class SOTTO_API Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;         ///< as in AttentionArgs::backend
  virtual std::string_view description() const = 0;  ///< one line for `sotto info`
  virtual int priority() const = 0;                  ///< higher is preferred
  virtual Reasons unusable() const { return {}; }    ///< on this machine, whatever the request

  /// All reasons against a request.
  virtual Reasons refuse(const Problem& problem) const = 0;
  /// Settles how to run a request that was not refused. args are those of the plan: later runs may
  /// have other pointers, strides and lengths.
  virtual std::unique_ptr<const AttentionKernel> plan(const AttentionArgs& args,
                                                      const Problem& problem) const = 0;

  /// All reasons against sdpa(), which by default is composed of the operations below and of
  /// plan().
  virtual Reasons refuse_sdpa(const AttentionArgs& args, const SdpaOptions& options) const;
  /// Settles how to run an sdpa() that was not refused.
  virtual std::unique_ptr<const SdpaKernel> plan_sdpa(const AttentionArgs& args,
                                                      const SdpaOptions& options) const;

  virtual Reasons refuse(const QuantizeArgs& args) const;              ///< by default refused
  virtual Reasons refuse(const ChannelMeanArgs& args) const;           ///< by default refused
  virtual Reasons refuse(const AppendKvArgs& args) const;              ///< by default refused
  virtual Reasons refuse(const MergeArgs& args) const;                 ///< by default refused
  virtual void run(const QuantizeArgs& args, Stream stream) const;     ///< what was not refused
  virtual void run(const ChannelMeanArgs& args, Stream stream) const;  ///< what was not refused
  virtual void run(const AppendKvArgs& args, Stream stream) const;     ///< what was not refused
  virtual void run(const MergeArgs& args, Stream stream) const;        ///< what was not refused
};

/// The registry. Thread-safe; plans keep their backend alive.
namespace backends {

/// Adds a backend, or throws InvalidArgument where the name is taken.
SOTTO_API void add(std::shared_ptr<const Backend> backend);
/// Takes one away (those that come with the library, too). Unknown names: InvalidArgument.
SOTTO_API void remove(std::string_view name);
/// All, highest priority first.
SOTTO_API std::vector<std::shared_ptr<const Backend>> list();
/// Every request without a backend of its own goes to this one until restore(). Unknown names:
/// InvalidArgument, which lists the known ones.
SOTTO_API void activate(std::string_view name);
/// Takes activate() back.
SOTTO_API void restore();
/// The activated backend, else the one in SOTTO_BACKEND, else empty: chosen by rules.
SOTTO_API std::string current();

}  // namespace backends

/// What one backend says to a request.
struct BackendAnswer {
  std::string backend;   ///< its name
  int priority = 0;      ///< higher is preferred
  bool chosen = false;   ///< it would run the request
  Reasons reasons = {};  ///< why not; empty: able
};

/// What every backend says to a request.
struct Explanation {
  std::string request;                 ///< one line
  std::vector<BackendAnswer> answers;  ///< every backend, highest priority first
  SOTTO_API std::string text() const;  ///< a table for people
};

/// Writes text().
SOTTO_API std::ostream& operator<<(std::ostream& out, const Explanation& explanation);

/// What every backend says to a request. Throws InvalidArgument where it is illegal.
SOTTO_API Explanation explain(const AttentionArgs& args);
/// The same for sdpa().
SOTTO_API Explanation explain(const AttentionArgs& args, const SdpaOptions& options);
/// The same for quantize().
SOTTO_API Explanation explain(const QuantizeArgs& args);
/// The same for channel_mean().
SOTTO_API Explanation explain(const ChannelMeanArgs& args);
/// The same for append_kv().
SOTTO_API Explanation explain(const AppendKvArgs& args);
/// The same for merge_states().
SOTTO_API Explanation explain(const MergeArgs& args);

}  // namespace sotto

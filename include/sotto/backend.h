// Backends: what they are asked, how one is chosen, and why not the others.
//
// Selection: the backend named in the request (args.backend), else the activated one, else the one
// in SOTTO_BACKEND, else the able one of the highest priority. SOTTO_DISABLE=name,name takes
// backends out of the last step. SOTTO_LOG=explain logs every selection's table, =debug also the
// plan. The environment is read at every selection; names that nobody has, and a SOTTO_LOG that is
// neither, are InvalidArgument there and in current().
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sotto/attention.h"
#include "sotto/kv_cache.h"
#include "sotto/merge.h"
#include "sotto/quantize.h"
#include "sotto/sdpa.h"

namespace sotto {

enum class OutputKind : std::uint8_t { plain, fp8, fp8_groups, nvfp4 };

// A legal AttentionArgs, in numbers: what a plan depends on. Two requests with equal Problems may
// share a plan.
struct Problem {
  Device device;
  std::int64_t batch = 0;  // sequences
  std::int64_t len_q = 0;  // of the longest sequence that the shapes and max_len allow
  std::int64_t len_k = 0;
  std::int64_t rows_q = 0;  // tokens in q: batch · len_q, or total_q
  std::int64_t heads_q = 0, heads_kv = 0;
  std::int64_t dim_qk = 0, dim_v = 0;
  std::int64_t page_size = 0;  // 0: not paged
  bool packed_q = false, packed_k = false;
  bool seqused_q = false, seqused_k = false, batch_idx = false;
  Dtype dtype_q{}, dtype_k{}, dtype_v{}, dtype_out{};
  Granularity granularity_q{}, granularity_k{}, granularity_v{};
  std::int64_t block_q = 0, block_k = 0, block_v = 0;
  float scale = 0, softcap = 0;
  std::int64_t mask_left = -1, mask_right = -1;
  Mask::Align mask_align{};
  bool dense_mask = false, lse = false, sinks = false;
  bool k_mean = false, row_bias = false, key_bias = false, v_mean = false;
  bool v_lo = false, hadamard_v = false;
  OutputKind output{};
  std::int64_t group = 0;  // elements per output scale: 64 or 128, 16 for NVFP4
  bool p_e4m3 = false;     // P is rounded to e4m3 (see AttentionArgs)
  bool fast = false;
  Accumulation accumulation{};
  int num_splits = 0;
  bool dropout = false, alibi = false, backward = false;

  bool operator==(const Problem&) const = default;
};

// Checks everything that can be checked on the host, throws InvalidArgument, or returns the
// Problem. Contents of host tensors (lengths, page tables) are checked when a plan runs.
Problem describe(const AttentionArgs& args);

// Why not; empty means yes.
using Reasons = std::vector<std::string>;

class AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  virtual std::size_t workspace_size() const = 0;
  virtual void run(const AttentionArgs& args, Workspace workspace, Stream stream) const = 0;
};

class SdpaKernel {
 public:
  virtual ~SdpaKernel() = default;
  virtual std::size_t workspace_size() const = 0;
  virtual const Recipe& recipe() const = 0;
  virtual QuantizedQkv quantize(const AttentionArgs& args, const SdpaOptions& options,
                                Workspace workspace, Stream stream) const = 0;
  virtual void attend(const QuantizedQkv& qkv, Workspace workspace, Stream stream) const = 0;

 protected:
  static QuantizedQkv make_qkv(const AttentionArgs& args) { return QuantizedQkv(args); }
};

// One implementation of the operations on some kind of device. Arguments are validated before a
// backend sees them. A backend lists all its reasons for no, knows no other backend, keeps no
// state between calls, and is called from several threads.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;
  virtual std::string_view description() const = 0;  // one line for `sotto info`
  virtual int priority() const = 0;                  // higher is preferred
  virtual Reasons unusable() const { return {}; }    // on this machine, whatever the request

  virtual Reasons refuse(const Problem& problem) const = 0;
  virtual std::unique_ptr<const AttentionKernel> plan(const AttentionArgs& args,
                                                      const Problem& problem) const = 0;

  // By default sdpa is composed of the operations below and of plan().
  virtual Reasons refuse_sdpa(const AttentionArgs& args, const SdpaOptions& options) const;
  virtual std::unique_ptr<const SdpaKernel> plan_sdpa(const AttentionArgs& args,
                                                      const SdpaOptions& options) const;

  // By default refused.
  virtual Reasons refuse(const QuantizeArgs& args) const;
  virtual Reasons refuse(const ChannelMeanArgs& args) const;
  virtual Reasons refuse(const AppendKvArgs& args) const;
  virtual Reasons refuse(const MergeArgs& args) const;
  virtual void run(const QuantizeArgs& args, Stream stream) const;
  virtual void run(const ChannelMeanArgs& args, Stream stream) const;
  virtual void run(const AppendKvArgs& args, Stream stream) const;
  virtual void run(const MergeArgs& args, Stream stream) const;
};

// The registry. Thread-safe; plans keep their backend alive.
namespace backends {

// Adds a backend, or throws InvalidArgument where the name is taken.
void add(std::shared_ptr<const Backend> backend);
// Takes one away (those that come with the library, too). Unknown names: InvalidArgument.
void remove(std::string_view name);
// All, highest priority first.
std::vector<std::shared_ptr<const Backend>> list();
// Every request without a backend of its own goes to this one until restore(). Unknown names:
// InvalidArgument, which lists the known ones.
void activate(std::string_view name);
void restore();
// The activated backend, else the one in SOTTO_BACKEND, else empty: chosen by rules.
std::string current();

}  // namespace backends

struct BackendAnswer {
  std::string backend;
  int priority = 0;
  bool chosen = false;
  Reasons reasons = {};  // empty: able
};

struct Explanation {
  std::string request;                 // one line
  std::vector<BackendAnswer> answers;  // every backend, highest priority first
  std::string text() const;            // a table for people
};

std::ostream& operator<<(std::ostream& out, const Explanation& explanation);

// What every backend says to a request. Throws InvalidArgument where it is illegal.
Explanation explain(const AttentionArgs& args);
Explanation explain(const AttentionArgs& args, const SdpaOptions& options);
Explanation explain(const QuantizeArgs& args);
Explanation explain(const ChannelMeanArgs& args);
Explanation explain(const AppendKvArgs& args);
Explanation explain(const MergeArgs& args);

}  // namespace sotto

/// @file
/// sdpa(): 16 or 32 bits in, quantised inside by a recipe, 16 or 32 bits out (or quantised, too).
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "sotto/attention.h"
#include "sotto/export.h"
#include "sotto/quantize.h"
#include "sotto/recipe.h"

namespace sotto {

/// How sdpa() works on a request.
struct SdpaOptions {
  Recipe recipe = Recipe::int8qk();  ///< how Q, K and V are quantised
  /// Applied to q and k. Without positions, key j is at j and query i at i + offset, where offset
  /// is the mask's alignment (0 top left, len_k - len_q bottom right). `rope.positions` gives the
  /// queries'; the keys' are positions_k, or the same where that is absent. For new tokens after a
  /// cache, align the mask: .mask = Mask::causal_bottom_right().
  Rope rope = {};
  Tensor positions_k = {};  ///< i32 [batch or 1, len_k] or packed [total_k]
};

class SdpaPlan;
class SdpaKernel;

/// Q, K and V as a plan's backend wants them: its own layout and scales, in the workspace that was
/// given. Valid as long as that memory.
class QuantizedQkv {
 public:
  /// The request on quantised tensors that attention() would take; layouts may be the backend's
  /// own.
  const AttentionArgs& args() const { return args_; }

 private:
  friend class SdpaKernel;
  explicit QuantizedQkv(const AttentionArgs& args) : args_(args) {}
  AttentionArgs args_;
};

/// As AttentionPlan, for sdpa().
///
/// args.q, k, v are f32, f16 or bf16, dense or packed; descale, smoothing, v_lo and hadamard_v stay
/// empty, for the recipe fills them in, and so it does with fast and accumulation. Smoothing is
/// exact: LSE, sinks and softcap are corrected.
class SOTTO_API SdpaPlan {
 public:
  /// Throws InvalidArgument (illegal), Unsupported (no backend takes it).
  explicit SdpaPlan(const AttentionArgs& args, const SdpaOptions& options = {});
  ~SdpaPlan();
  SdpaPlan(SdpaPlan&&) noexcept;             ///< leaves nothing but a plan to destroy
  SdpaPlan& operator=(SdpaPlan&&) noexcept;  ///< leaves nothing but a plan to destroy

  std::size_t workspace_size() const;  ///< bytes, 64-byte aligned: quantised copies and scratch
  std::string_view backend() const;    ///< the name of the chosen one
  const Recipe& recipe() const;        ///< of the plan's options

  /// Both steps. As AttentionPlan::run, but that means of channels and scales take small buffers.
  void run(const AttentionArgs& args, const SdpaOptions& options, Workspace workspace,
           Stream stream = {}) const;
  /// The second step alone, on what quantize_qkv() made in the same workspace.
  void run(const QuantizedQkv& qkv, Workspace workspace, Stream stream = {}) const;

 private:
  friend SOTTO_API QuantizedQkv quantize_qkv(const AttentionArgs&, const SdpaOptions&,
                                             const SdpaPlan&, Workspace, Stream);
  void check_fits(const AttentionArgs& args, const SdpaOptions& options) const;

  std::unique_ptr<const Problem> problem_;  // of the unquantised request
  bool rope_ = false, positions_ = false;
  std::shared_ptr<const Backend> backend_;
  std::unique_ptr<const SdpaKernel> kernel_;
};

/// The first step alone: RoPE, Hadamard, smoothing and quantisation of Q, K and V.
SOTTO_API QuantizedQkv quantize_qkv(const AttentionArgs& args, const SdpaOptions& options,
                                    const SdpaPlan& plan, Workspace workspace, Stream stream = {});

/// Plans, allocates a workspace (on a GPU in the stream's order), runs: a drop-in for
/// scaled_dot_product_attention.
///
/// Throws InvalidArgument and Unsupported, before anything is written.
SOTTO_API void sdpa(const AttentionArgs& args, const SdpaOptions& options = {}, Stream stream = {});

}  // namespace sotto

/// @file
/// A recipe says how sdpa() quantises: one plain struct, some named values, and a text form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sotto/export.h"

namespace sotto {

/// Which elements share one scale. Shapes of the scale tensors: see Scale in attention.h.
enum class Granularity : std::uint8_t {
  tensor,   ///< one for all
  head,     ///< per (batch, head)
  kv_head,  ///< per (batch, kv head): query heads of a group share one (FlashAttention-3)
  block,    ///< per (batch, head, block of consecutive tokens)
  token,    ///< per (batch, token, head)
};

/// Which operands get an orthonormal Hadamard transform along the head dimension before they are
/// quantised.
///
/// Q's and K's cancels in QKᵀ; V's is undone on the output. Where dim is no power of two the
/// transform is block-diagonal with the largest power of two (≤ 256) that divides it.
enum class Hadamard : std::uint8_t {
  none,    ///< none
  qk,      ///< Q and K
  qkv,     ///< all three
  v_only,  ///< V
};

/// How P·V is summed.
///
/// The CPU backends sum in fp32 or better, so that both are the same there.
enum class Accumulation : std::uint8_t {
  safe,   ///< the result does not depend on V's mean or on the length: two-level sums where the
          ///< matrix unit truncates
  plain,  ///< whatever the matrix unit does
};

/// What Q and K become.
enum class QkFormat : std::uint8_t {
  exact,  ///< not quantised
  e4m3,   ///< FP8
  int8,   ///< INT8
};

/// What V, and with it P, becomes.
enum class VFormat : std::uint8_t {
  exact,       ///< not quantised; P isn't either
  e4m3,        ///< FP8; P, too
  e4m3_hi_lo,  ///< a second e4m3 term (hi + lo) on the first 128 keys and on the 128-key blocks
               ///< that cross an edge of the mask's band
};

/// How sdpa() quantises. The named recipes are a start; every member may be changed.
struct Recipe {
  QkFormat qk = QkFormat::exact;               ///< what Q and K become
  VFormat v = VFormat::exact;                  ///< what V and P become
  Granularity q_scale = Granularity::kv_head;  ///< tensor, head, kv_head, block (of 128) or token
  Granularity k_scale = Granularity::kv_head;  ///< the same
  Granularity v_scale = Granularity::kv_head;  ///< the same
  bool v_scale_power_of_two = false;   ///< round V's scale up to 2^e: an addition to P's exponent
  Hadamard hadamard = Hadamard::none;  ///< which operands are transformed
  /// Subtract K's channel mean (over the first 1,024 valid keys); exact.
  bool smooth_k = false;
  /// Subtract Q's channel mean (over all valid queries); mean(Q)·Kᵀ is added to the scores.
  bool smooth_q = false;
  /// Subtract V's channel mean (over all valid keys); added to the output.
  bool v_mean = false;
  bool fast = false;  ///< a cheaper softmax (−0.4…−1 dB) where a backend has one
  Accumulation accumulation = Accumulation::safe;  ///< how P·V is summed

  /// Member by member.
  bool operator==(const Recipe&) const = default;

  /// Q, K and V as given.
  SOTTO_API static Recipe exact();
  /// Q, K and V e4m3, a scale per (batch, kv head).
  SOTTO_API static Recipe fp8();
  /// As fp8, with Hadamard QK and smooth_k.
  SOTTO_API static Recipe fp8_hadamard();
  /// INT8 Q (scale per token) and K (per block), e4m3 V (2^e per block), Hadamard QK, smooth_k.
  SOTTO_API static Recipe int8qk();
  /// As int8qk, V e4m3 hi + lo.
  SOTTO_API static Recipe high();

  /// A recipe from text: "int8qk", "fp8+hadamard=qkv", "int8qk+v_mean+accumulation=plain".
  ///
  /// A name (exact, fp8, fp8-hadamard, int8qk, high), then members to change:
  /// hadamard=none|qk|qkv|v_only, smooth_k, smooth_q, v_mean, fast (each alone or =on|off),
  /// accumulation=safe|plain. Throws InvalidArgument, which lists what is known, for anything else.
  SOTTO_API static Recipe parse(std::string_view text);
  /// The names that parse() knows.
  SOTTO_API static std::vector<std::string> names();
};

/// The shortest text that Recipe::parse() reads back to the same members that it can name.
SOTTO_API std::string to_string(const Recipe& recipe);

}  // namespace sotto

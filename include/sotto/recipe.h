// A recipe says how sdpa() quantises: one plain struct, some named values, and a text form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sotto {

// Which elements share one scale. Shapes of the scale tensors: see Scale in attention.h.
enum class Granularity : std::uint8_t {
  tensor,   // one for all
  head,     // per (batch, head)
  kv_head,  // per (batch, kv head): query heads of a group share one (FlashAttention-3)
  block,    // per (batch, head, block of consecutive tokens)
  token,    // per (batch, token, head)
};

// Which operands get an orthonormal Hadamard transform along the head dimension before they are
// quantised. Q's and K's cancels in QKᵀ; V's is undone on the output. Where dim is no power of two
// the transform is block-diagonal with the largest power of two (≤ 256) that divides it.
enum class Hadamard : std::uint8_t { none, qk, qkv, v_only };

// How P·V is summed. `safe`: the result does not depend on V's mean or on the length (two-level
// sums where the matrix unit truncates). `plain`: whatever the matrix unit does. The CPU backends
// sum in fp32 or better, so that both are the same there.
enum class Accumulation : std::uint8_t { safe, plain };

enum class QkFormat : std::uint8_t {
  exact,  // not quantised
  e4m3,
  int8,
};

enum class VFormat : std::uint8_t {
  exact,       // not quantised; P isn't either
  e4m3,        // P in e4m3, too
  e4m3_hi_lo,  // a second e4m3 term (hi + lo) on the first 128 keys and on the 128-key blocks that
               // cross an edge of the mask's band
};

struct Recipe {
  QkFormat qk = QkFormat::exact;
  VFormat v = VFormat::exact;
  Granularity q_scale = Granularity::kv_head;  // tensor, head, kv_head, block (of 128) or token
  Granularity k_scale = Granularity::kv_head;
  Granularity v_scale = Granularity::kv_head;
  bool v_scale_power_of_two = false;  // round V's scale up to 2^e: an addition to P's exponent
  Hadamard hadamard = Hadamard::none;
  bool smooth_k = false;  // subtract K's channel mean (over the first 1,024 valid keys); exact
  bool smooth_q = false;  // subtract Q's channel mean (over all valid queries); mean(Q)·Kᵀ is added
  bool v_mean = false;  // subtract V's channel mean (over all valid keys); added to the output
  bool fast = false;    // a cheaper softmax (−0.4…−1 dB) where a backend has one
  Accumulation accumulation = Accumulation::safe;

  bool operator==(const Recipe&) const = default;

  //                                Q, K                            V         Hadamard, K mean
  static Recipe exact();         // as given                        as given  -
  static Recipe fp8();           // e4m3, per (batch, kv head)      the same  -
  static Recipe fp8_hadamard();  // e4m3, the same                  the same  QK, yes
  static Recipe int8qk();        // INT8, Q per token, K per block  e4m3, 2^e per block  QK, yes
  static Recipe high();          // as int8qk                       e4m3 hi + lo  QK, yes

  // "int8qk", "fp8+hadamard=qkv", "int8qk+v_mean+accumulation=plain": a name (exact, fp8,
  // fp8-hadamard, int8qk, high), then members to change: hadamard=none|qk|qkv|v_only, smooth_k,
  // smooth_q, v_mean, fast (each alone or =on|off), accumulation=safe|plain.
  // Throws InvalidArgument, which lists what is known, for anything else.
  static Recipe parse(std::string_view text);
  static std::vector<std::string> names();
};

// The shortest text that parse() reads back to the same members that it can name.
std::string to_string(const Recipe& recipe);

}  // namespace sotto

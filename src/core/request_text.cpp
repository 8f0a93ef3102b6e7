#include "core/request_text.h"

#include <fmt/format.h>

namespace sotto::core {
namespace {

std::string mask_text(const Problem& p) {
  std::string text;
  if (p.mask_left >= 0 || p.mask_right >= 0) {
    const bool causal = p.mask_left < 0 && p.mask_right == 0;
    text = causal ? ", causal" : fmt::format(", window ({}, {})", p.mask_left, p.mask_right);
    text += p.mask_align == Mask::Align::bottom_right ? " bottom right" : " top left";
  }
  if (p.dense_mask) text += ", dense mask";
  return text;
}

std::string output_text(const Problem& p) {
  switch (p.output) {
    case OutputKind::fp8:
      return "e4m3 per tensor";
    case OutputKind::fp8_groups:
      return fmt::format("e4m3 per {}", p.group);
    case OutputKind::nvfp4:
      return "nvfp4";
    case OutputKind::plain:
      break;
  }
  return std::string(dtype_name(p.dtype_out));
}

}  // namespace

std::string request_text(const Problem& p) {
  std::string text = fmt::format(
      "attention on {}: batch {}, len {}/{}, heads {}/{}, dim {}/{}, q {}, k {}, v {}, out {}",
      to_string(p.device), p.batch, p.len_q, p.len_k, p.heads_q, p.heads_kv, p.dim_qk, p.dim_v,
      dtype_name(p.dtype_q), dtype_name(p.dtype_k), dtype_name(p.dtype_v), output_text(p));
  text += mask_text(p);
  if (p.packed_q || p.packed_k) text += ", packed";
  if (p.page_size > 0) text += fmt::format(", pages of {}", p.page_size);
  if (p.softcap > 0) text += fmt::format(", softcap {}", p.softcap);
  if (p.sinks) text += ", sinks";
  if (p.lse) text += ", lse";
  return text;
}

}  // namespace sotto::core

// Comparing what a plan was made for with what it is given.
#include <fmt/format.h>

#include <array>

#include "core/validate.h"

namespace sotto::core {
namespace {

template <class T>
std::string value_text(const T& value) {
  if constexpr (std::is_same_v<T, Dtype>) {
    return std::string(dtype_name(value));
  } else if constexpr (std::is_same_v<T, Device>) {
    return to_string(value);
  } else if constexpr (std::is_same_v<T, Mask::Align>) {
    return value == Mask::Align::top_left ? "top left" : "bottom right";
  } else if constexpr (std::is_same_v<T, Granularity>) {
    constexpr std::array kNames{"tensor", "head", "kv_head", "block", "token"};
    return kNames[static_cast<std::size_t>(value)];
  } else if constexpr (std::is_same_v<T, OutputKind>) {
    constexpr std::array kNames{"plain", "fp8 per tensor", "fp8 per group", "nvfp4"};
    return kNames[static_cast<std::size_t>(value)];
  } else if constexpr (std::is_same_v<T, Accumulation>) {
    return value == Accumulation::safe ? "safe" : "plain";
  } else {
    return fmt::format("{}", value);
  }
}

}  // namespace

std::string first_difference(const Problem& plan, const Problem& now) {
  std::string text;
  const auto compare = [&](std::string_view name, const auto& before, const auto& after) {
    if (text.empty() && !(before == after)) {
      text =
          fmt::format("{} was {} in the plan, is {}", name, value_text(before), value_text(after));
    }
  };
#define SOTTO_COMPARE(member) compare(#member, plan.member, now.member)
  SOTTO_COMPARE(device);
  SOTTO_COMPARE(batch);
  SOTTO_COMPARE(len_q);
  SOTTO_COMPARE(len_k);
  SOTTO_COMPARE(rows_q);
  SOTTO_COMPARE(total_k);
  SOTTO_COMPARE(heads_q);
  SOTTO_COMPARE(heads_kv);
  SOTTO_COMPARE(dim_qk);
  SOTTO_COMPARE(dim_v);
  SOTTO_COMPARE(page_size);
  SOTTO_COMPARE(packed_q);
  SOTTO_COMPARE(packed_k);
  SOTTO_COMPARE(seqused_q);
  SOTTO_COMPARE(seqused_k);
  SOTTO_COMPARE(batch_idx);
  SOTTO_COMPARE(dtype_q);
  SOTTO_COMPARE(dtype_k);
  SOTTO_COMPARE(dtype_v);
  SOTTO_COMPARE(dtype_out);
  SOTTO_COMPARE(granularity_q);
  SOTTO_COMPARE(granularity_k);
  SOTTO_COMPARE(granularity_v);
  SOTTO_COMPARE(block_q);
  SOTTO_COMPARE(block_k);
  SOTTO_COMPARE(block_v);
  SOTTO_COMPARE(scale);
  SOTTO_COMPARE(softcap);
  SOTTO_COMPARE(mask_left);
  SOTTO_COMPARE(mask_right);
  SOTTO_COMPARE(mask_align);
  SOTTO_COMPARE(dense_mask);
  SOTTO_COMPARE(lse);
  SOTTO_COMPARE(sinks);
  SOTTO_COMPARE(k_mean);
  SOTTO_COMPARE(row_bias);
  SOTTO_COMPARE(key_bias);
  SOTTO_COMPARE(v_mean);
  SOTTO_COMPARE(v_lo);
  SOTTO_COMPARE(hadamard_v);
  SOTTO_COMPARE(output);
  SOTTO_COMPARE(group);
  SOTTO_COMPARE(p_e4m3);
  SOTTO_COMPARE(fast);
  SOTTO_COMPARE(accumulation);
  SOTTO_COMPARE(num_splits);
  SOTTO_COMPARE(dropout);
  SOTTO_COMPARE(alibi);
  SOTTO_COMPARE(backward);
#undef SOTTO_COMPARE
  if (text.empty() && !(plan == now)) text = "a feature of the request changed";
  return text;
}

}  // namespace sotto::core

// RoPE's tables as kernels see them.
#pragma once

#include <cstdint>

#include "sotto/quantize.h"

namespace sotto::cuda {

// How pairs lie in a row. `halves` and `interleaved`: pairs fill the row, the tables have a plain
// row of dim/2 factors for each position. `general`: anything else.
enum class RopeKind : std::uint8_t { none, halves, interleaved, general };

// cos and sin; see Rope in sotto/quantize.h.
struct RopeTables {
  RopeKind kind = RopeKind::none;
  bool interleaved = false;
  bool factor_per_channel = false;
  int rotary_dim = 0;
  int positions = 0;  // rows of the tables
  const float* cos = nullptr;
  const float* sin = nullptr;
  std::int64_t cos_stride = 0, sin_stride = 0;                  // between positions
  std::int64_t cos_channel_stride = 1, sin_channel_stride = 1;  // between factors
};

// width: channels of a padded row.
inline RopeTables rope_tables(const Rope& rope, std::int64_t dim, std::int64_t width) {
  RopeTables tables;
  if (!rope) return tables;
  const std::int64_t rotary_dim = rope.rotary_dim == 0 ? dim : rope.rotary_dim;
  tables.interleaved = rope.interleaved;
  tables.factor_per_channel = rope.cos.size(1) == rotary_dim;
  tables.rotary_dim = static_cast<int>(rotary_dim);
  tables.positions = static_cast<int>(rope.cos.size(0));
  tables.cos = static_cast<const float*>(rope.cos.data);
  tables.sin = static_cast<const float*>(rope.sin.data);
  tables.cos_stride = rope.cos.stride(0);
  tables.sin_stride = rope.sin.stride(0);
  tables.cos_channel_stride = rope.cos.stride(1);
  tables.sin_channel_stride = rope.sin.stride(1);
  const auto plain = [](const Tensor& table) {
    return table.stride(1) == 1 && table.stride(0) % 4 == 0 &&
           reinterpret_cast<std::uintptr_t>(table.data) % 16 == 0;
  };
  const bool fills_row = rotary_dim == dim && dim == width && !tables.factor_per_channel &&
                         plain(rope.cos) && plain(rope.sin);
  tables.kind = !fills_row         ? RopeKind::general
                : rope.interleaved ? RopeKind::interleaved
                                   : RopeKind::halves;
  return tables;
}

}  // namespace sotto::cuda

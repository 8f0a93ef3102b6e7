// attend_tile() with products in INT8 or bf16: see dot_product.h.
#pragma once

#include "cpu/attention_kernels.h"

namespace sotto::cpu {

void attend_tile_avx512(const TileStep& step, const KeyTile& tile, const RowBlock& block);

}  // namespace sotto::cpu

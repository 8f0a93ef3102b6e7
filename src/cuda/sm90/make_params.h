// From a request to what its kernels are told, whatever their kind.
#pragma once

#include "cuda/sm90/params.h"
#include "sotto/backend.h"

namespace sotto::sm90 {

// Everything but the scales. `rows`: of a block; `k`, `v` bytes: of one token of one head.
Params make_params(const AttentionArgs& args, const Problem& problem, int rows,
                   std::int64_t bytes_of_key, unsigned* next_tile);

// `heads`: query heads that share a kv_head scale (1 for K's and V's own).
ScaleView view_of(const Scale& scale, bool packed, std::int64_t heads);

// Throws InvalidArgument for pointers and strides that the kernels cannot take; on every run.
void check_layout(const AttentionArgs& args);

}  // namespace sotto::sm90

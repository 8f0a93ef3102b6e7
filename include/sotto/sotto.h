/// @file
/// Everything: includes all the others.
#pragma once

#include "sotto/attention.h"
#include "sotto/backend.h"
#include "sotto/error.h"
#include "sotto/export.h"
#include "sotto/kv_cache.h"
#include "sotto/log.h"
#include "sotto/merge.h"
#include "sotto/numerics.h"
#include "sotto/quantize.h"
#include "sotto/recipe.h"
#include "sotto/sdpa.h"
#include "sotto/tensor.h"
#include "sotto/version.h"

/// Low-precision attention.
namespace sotto {}

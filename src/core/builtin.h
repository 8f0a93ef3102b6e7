// The backends that come with the library: each folder's factory.
#pragma once

#include <memory>

#include "sotto/backend.h"

namespace sotto {

std::shared_ptr<const Backend> make_cpu_backend();
std::shared_ptr<const Backend> make_reference_backend();
#ifdef SOTTO_WITH_CUDA
std::shared_ptr<const Backend> make_sm90_backend();
#endif

}  // namespace sotto

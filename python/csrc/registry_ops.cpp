// The registry of backends, and what else has no tensors.
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "op.h"
#include "sotto/recipe.h"

namespace sotto::bridge {
namespace {

using Strings = std::vector<std::string>;

// Names, descriptions, priorities, and why each is not usable on this machine ("": it is).
std::tuple<Strings, Strings, std::vector<std::int64_t>, Strings> list_backends() {
  Strings names, descriptions, reasons;
  std::vector<std::int64_t> priorities;
  for (const auto& backend : backends::list()) {
    names.emplace_back(backend->name());
    descriptions.emplace_back(backend->description());
    priorities.push_back(backend->priority());
    reasons.push_back(joined(backend->unusable()));
  }
  return {names, descriptions, priorities, reasons};
}

std::string current_backend() { return backends::current(); }
void activate_backend(std::string name) { backends::activate(name); }
void restore_backend() { backends::restore(); }
Strings recipes() { return Recipe::names(); }

STABLE_TORCH_LIBRARY_FRAGMENT(sotto, library) {
  library.def(
      "list_backends() -> (str[] names, str[] descriptions, int[] priorities, str[] reasons)");
  library.def("current_backend() -> str");
  library.def("activate_backend(str name) -> ()");
  library.def("restore_backend() -> ()");
  library.def("recipes() -> str[]");
}
STABLE_TORCH_LIBRARY_IMPL(sotto, CompositeExplicitAutograd, library) {
  library.impl("list_backends", TORCH_BOX(&list_backends));
  library.impl("current_backend", TORCH_BOX(&current_backend));
  library.impl("activate_backend", TORCH_BOX(&activate_backend));
  library.impl("restore_backend", TORCH_BOX(&restore_backend));
  library.impl("recipes", TORCH_BOX(&recipes));
}

}  // namespace
}  // namespace sotto::bridge

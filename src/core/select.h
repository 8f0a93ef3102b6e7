// Asking every backend, and choosing one.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "sotto/backend.h"

namespace sotto::core {

using Ask = std::function<Reasons(const Backend&)>;

struct Selection {
  Explanation explanation;
  std::shared_ptr<const Backend> backend;  // null: nobody takes it
};

// `request` describes the request in one line; `wanted` is its own choice of a backend, or empty.
// Throws InvalidArgument for a name that nobody has, in `wanted` or in the environment.
Selection select(std::string request, std::string_view wanted, const Ask& ask);

// The same, but throws Unsupported where nobody takes it; logs as SOTTO_LOG says.
std::shared_ptr<const Backend> select_or_throw(std::string request, std::string_view wanted,
                                               const Ask& ask);

// A backend that accepts a request has to make a kernel of it; throws Error where it made none.
void check_planned(const Backend& backend, const void* kernel);

}  // namespace sotto::core

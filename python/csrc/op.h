// What all ops have in common: an op is defined from a request, a struct that takes its arguments
// off the stack, allocates or takes its outputs, and can run or explain what came together.
#pragma once

#include <torch/csrc/stable/library.h>

#include <concepts>
#include <string>
#include <vector>

#include "arguments.h"
#include "sotto/backend.h"

namespace sotto::bridge {

template <class T>
concept Request = requires(T request, Arguments& in) {
  request.take(in);  // the inputs
  { request.run() } -> std::same_as<void>;
  { request.explain() } -> std::same_as<Explanation>;
};
// With `allocate(in)`, which takes what the schema has after the inputs and returns new outputs,
// or `bind(in)`, which takes the tensors to write to.

// Rethrows as what torch's users expect: with the arguments' names in Python; RuntimeError there.
[[noreturn]] void rethrow(const InvalidArgument& error, bool torchs_layout);

// Calls f with a new request.
template <Request R, class F>
void with_request(F&& f) {
  R request;
  try {
    f(request);
  } catch (const InvalidArgument& error) {
    if constexpr (requires { request.has_torchs_layout(); }) {
      rethrow(error, request.has_torchs_layout());
    } else {
      rethrow(error, false);
    }
  }
}

// op(inputs, ...) -> outputs
template <Request R>
void functional(StableIValue* stack, std::uint64_t, std::uint64_t) {
  with_request<R>([&](R& request) {
    Arguments in(stack);
    request.take(in);
    const std::vector<TorchTensor> outputs = request.allocate(in);
    in.check();
    request.run();
    for (const TorchTensor& output : outputs) *stack++ = torch::stable::detail::from(output);
  });
}

// op.out(inputs, ..., outputs) -> ()
template <Request R>
void into(StableIValue* stack, std::uint64_t, std::uint64_t) {
  with_request<R>([&](R& request) {
    Arguments in(stack);
    request.take(in);
    request.bind(in);
    in.check();
    request.run();
  });
}

inline constexpr const char* kExplanationReturns =
    " -> (str text, str request, str[] backends, int[] priorities, str chosen, str[] reasons)";
void push(StableIValue* stack, const Explanation& explanation);
// A line each.
std::string joined(const Reasons& reasons);

// explain_op: the same arguments, nothing runs.
template <Request R, bool kInto>
void explained(StableIValue* stack, std::uint64_t, std::uint64_t) {
  with_request<R>([&](R& request) {
    Arguments in(stack);
    request.take(in);
    std::vector<TorchTensor> outputs;
    if constexpr (kInto) {
      request.bind(in);
    } else {
      outputs = request.allocate(in);
    }
    in.check();
    push(stack, request.explain());
  });
}

using Library = torch::stable::detail::StableLibrary;

// Defines `name` and `explain_<name>`.
inline void define(Library& library, const std::string& name, const std::string& parameters,
                   const std::string& returns) {
  library.def((name + "(" + parameters + ") -> " + returns).c_str());
  library.def(("explain_" + name + "(" + parameters + ")" + kExplanationReturns).c_str());
}

template <Request R>
void implement_functional(Library& library, const std::string& name) {
  library.impl(name.c_str(), functional<R>);
  library.impl(("explain_" + name).c_str(), explained<R, false>);
}

template <Request R>
void implement_into(Library& library, const std::string& name) {
  library.impl(name.c_str(), into<R>);
  library.impl(("explain_" + name).c_str(), explained<R, true>);
}

}  // namespace sotto::bridge

// Implements a function `implement(Library&)` for the devices that the library knows.
#define SOTTO_IMPLEMENT_OPS(implement)                                   \
  STABLE_TORCH_LIBRARY_IMPL(sotto, CPU, library) { implement(library); } \
  STABLE_TORCH_LIBRARY_IMPL(sotto, CUDA, library) { implement(library); }

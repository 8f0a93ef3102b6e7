/// @file
/// What goes wrong, as exceptions. Every text names the argument, what was expected and what was
/// seen, and is thrown before anything is written.
///
/// Where memory runs out, std::bad_alloc passes through, or, for the workspace that attention() and
/// sdpa() make for themselves, an Error that says how much it was. Nothing is leaked, and plans,
/// the registry and settings stay as they were; what a call was writing may hold part of its
/// result.
#pragma once

#include <stdexcept>
#include <string>

#include "sotto/export.h"

namespace sotto {

/// Base of everything the library throws on purpose.
class SOTTO_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument is illegal whatever the backend: wrong shape, stride, dtype, device, length, name.
class SOTTO_API InvalidArgument : public Error {
 public:
  /// what() reads "argument: problem".
  InvalidArgument(const std::string& argument, const std::string& problem)
      : Error(argument + ": " + problem), argument_(argument) {}

  /// "k", "seq.cu_seqlens_q", …
  const std::string& argument() const noexcept { return argument_; }

 private:
  std::string argument_;
};

/// The request is legal, but no usable backend runs it. what() lists every backend's reasons.
class SOTTO_API Unsupported : public Error {
 public:
  using Error::Error;
};

}  // namespace sotto

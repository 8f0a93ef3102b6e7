// What goes wrong, as exceptions. Every text names the argument, what was expected and what was
// seen, and is thrown before anything is written.
#pragma once

#include <stdexcept>
#include <string>

namespace sotto {

// Base of everything the library throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An argument is illegal whatever the backend: wrong shape, stride, dtype, device, length, name.
class InvalidArgument : public Error {
 public:
  // what() reads "<argument>: <problem>".
  InvalidArgument(const std::string& argument, const std::string& problem)
      : Error(argument + ": " + problem), argument_(argument) {}

  const std::string& argument() const noexcept { return argument_; }

 private:
  std::string argument_;
};

// The request is legal, but no usable backend runs it. what() lists every backend's reasons.
class Unsupported : public Error {
 public:
  using Error::Error;
};

}  // namespace sotto

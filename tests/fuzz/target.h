// What the targets share. A target is a function of some bytes; that it neither crashes nor throws
// anything but the library's own errors is what a fuzzer wants to see disproved.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "input.h"
#include "sotto/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace sotto::fuzz {

// Whether f went well; everything but an Error passes through, and ends the fuzzer.
template <class F>
bool attempt(F&& f) {
  try {
    f();
    return true;
  } catch (const Error&) {
    return false;
  }
}

inline void require(bool condition, const char* what) {
  if (!condition) throw std::logic_error(what);
}

}  // namespace sotto::fuzz

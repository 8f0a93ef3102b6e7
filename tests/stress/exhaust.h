// Memory runs out, at one allocation after the other (of the many in a loop, at some): the caller
// gets std::bad_alloc or an Error, nothing leaks (LeakSanitizer watches where it is there), and the
// same call goes well afterwards.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <new>
#include <string>

#include "failing_new.h"
#include "sotto/error.h"

namespace sotto::test {

// Runs f until no allocation of its own is left to fail.
inline void exhaust(const std::string& what, const std::function<void()>& f) {
  f();  // what is made once is there
  for (std::int64_t n = 1;; n += 1 + n / 20) {
    std::string failure;
    bool thrown = false;
    fail_allocation(n);
    try {
      f();
    } catch (const std::bad_alloc&) {
      thrown = true;
    } catch (const Error& error) {
      thrown = true;
      if (std::strlen(error.what()) == 0) failure = "an error without a text";
    } catch (...) {
      failure = "something else was thrown";
    }
    const bool failed = stop_failing();
    ASSERT_EQ(failure, "") << what << ", allocation " << n;
    if (!failed) {
      ASSERT_FALSE(thrown) << what;
      ASSERT_GT(n, 0);
      return;
    }
    f();
  }
}

}  // namespace sotto::test

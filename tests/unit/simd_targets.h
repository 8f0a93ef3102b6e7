// Running a test on every SIMD target that the machine has and the library was built for.
#pragma once

#include "cpu/targets.h"
// After targets.h.
#include <gtest/gtest.h>
#include <hwy/highway.h>

namespace sotto::test {

// Calls f() once with each target as the one that dispatch chooses.
template <class F>
void for_each_target(F&& f) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    f();
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

}  // namespace sotto::test

// What the property tests share: they run on every usable backend.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harness.h"
#include "mirror.h"
#include "request.h"
#include "spec.h"

namespace sotto::test {

inline std::vector<std::string> usable_backends() {
  std::vector<std::string> names;
  for (const auto& backend : backends::list()) {
    if (backend->unusable().empty()) names.emplace_back(backend->name());
  }
  return names;
}

inline std::string backend_name(const testing::TestParamInfo<std::string>& info) {
  return test_name(info.param);
}

// All sequences in a row.
inline Rows joined(const Result& result) {
  Rows all;
  for (const Rows& rows : result.sequences) {
    all.o.insert(all.o.end(), rows.o.begin(), rows.o.end());
    all.lse.insert(all.lse.end(), rows.lse.begin(), rows.lse.end());
  }
  return all;
}

class OnEveryBackend : public testing::TestWithParam<std::string> {
 protected:
  // A test goes through what the backend takes. Complete ones take everything, which attend()
  // would fail to do otherwise.
  bool takes(const AttentionCase& c) {
    if (is_complete(GetParam())) return true;
    AttentionCase plain = c;  // as attend() runs it
    plain.output = OutputKind::plain;
    plain.dtype_out = Dtype::f32;
    plain.lse = true;
    Request request;
    make_request(c, make_data(c), request);
    return counted(explain_case(plain, request, GetParam()));
  }
  // The same for a request of any kind, on tensors where the backend computes.
  template <class... Args>
  bool takes_request(const Args&... args) {
    return is_complete(GetParam()) || counted(explain(args...));
  }

  // O and LSE in fp32.
  Rows attend(const AttentionCase& c, const Data& data) const {
    Request request;
    make_request(c, data, request);
    return joined(run_plain(c, request, GetParam()));
  }

  Rows attend(const std::string& line) const {
    const AttentionCase c(line);
    return attend(c, make_data(c));
  }

  void TearDown() override {
    if (refused_ > 0 && taken_ == 0) GTEST_SKIP() << GetParam() << " refuses all of it";
  }

 private:
  bool counted(const Explanation& explanation) {
    const bool able = reasons_of(GetParam(), explanation).empty();
    ++(able ? taken_ : refused_);
    return able;
  }

  int taken_ = 0, refused_ = 0;
};

}  // namespace sotto::test

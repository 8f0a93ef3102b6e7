// What the property tests share: they run on every usable backend.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

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
};

}  // namespace sotto::test

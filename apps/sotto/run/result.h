// What `sotto run` computes, and the files that it goes to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/stored_tensor.h"
#include "run/request.h"
#include "sotto/attention.h"

namespace sotto::cli {

struct ResultOptions {
  std::optional<Dtype> dtype;  // absent: q's, or bf16 where q is 8-bit
  std::int64_t group = 0;      // 64 or 128: a scale for so many elements of an e4m3 output
  bool ue8m0 = false;          // those scales as powers of two
  bool lse = true;
  std::string out_file, lse_file;  // empty: none
};

class RunResult {
 public:
  // Gives `args` outputs of the right shapes, but of no memory yet, so that the request can be
  // checked before it takes any. Throws UsageError where the options or the files do not fit.
  RunResult(const ResultOptions& options, Layout layout, AttentionArgs& args);

  // Takes the memory, all zeros.
  void allocate(AttentionArgs& args);

  // As files have them: `out`, `lse`, and what turns a quantised `out` into values, `output_scale`
  // and `group_scale`. NVFP4's pairs and ue8m0 scales are U8.
  const models::TensorMap& tensors() const { return tensors_; }

  void write(const ResultOptions& options) const;

 private:
  void take(const char* name, Tensor& tensor);

  Layout layout_;
  std::vector<std::vector<std::byte>> memory_;
  models::TensorMap tensors_;
};

// The values of the tensor `name`: those of a quantised one by the scales beside it. Throws
// models::FileError, which calls the whole `file`.
std::vector<float> values_of(const models::TensorMap& tensors, const std::string& name,
                             const std::string& file);

}  // namespace sotto::cli

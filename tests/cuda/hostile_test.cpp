// Lengths, offsets and positions that lie on the GPU are seen by nobody before the kernels run:
// whatever they hold, nothing outside the tensors is touched (compute-sanitizer watches this test).
#include <limits>

#include "gpu_case.h"

namespace sotto::test {
namespace {

using Ints = std::vector<std::int32_t>;

constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t kLeast = std::numeric_limits<std::int32_t>::min();

const std::vector<Ints> kPatterns{{-1},
                                  {kMost},
                                  {kLeast},
                                  {kLeast, kMost},
                                  {kMost, -kMost},
                                  {500, 10},
                                  {0, 1000000, 3},
                                  {0x7fffff80, 64, -64}};

// Every tensor of integers, written over with the pattern or as it was before.
class Integers {
 public:
  explicit Integers(const GpuCase& gpu_case) {
    const auto collect = [&](const char*, core::Access, const Tensor& tensor) {
      if (!tensor || tensor.dtype != Dtype::i32) return;
      Ints values(static_cast<std::size_t>(tensor.numel()));
      copy_bytes(reinterpret_cast<std::byte*>(values.data()), tensor.at(0), 4 * values.size());
      before_.emplace_back(tensor, values);
    };
    core::each_tensor(gpu_case.args, collect);
    core::each_tensor(gpu_case.options, collect);
  }
  std::size_t count() const { return before_.size(); }
  void spoil(const Ints& pattern) const {
    for (const auto& [tensor, values] : before_) {
      Ints bad(values.size());
      for (std::size_t n = 0; n < bad.size(); ++n) bad[n] = pattern[n % pattern.size()];
      write(tensor, bad);
    }
  }
  void restore() const {
    for (const auto& [tensor, values] : before_) write(tensor, values);
  }

 private:
  static void write(const Tensor& tensor, const Ints& values) {
    copy_bytes(tensor.at(0), reinterpret_cast<const std::byte*>(values.data()), 4 * values.size());
  }

  std::vector<std::pair<Tensor, Ints>> before_;
};

class Hostile : public OnGpu {};

TEST_F(Hostile, LengthsAndOffsets) {
  for (const char* line :
       {"b3 h4/2 q5:300:70 k100:300:33 d128 packed in=bf16 out=bf16 causal_br lse",
        "b3 h4/2 q5:300:70 k100:300:33 d128 packed max_len in=e4m3 out=bf16 lse",
        "b3 h4/2 q5:300:70 k100:300:33 d128 packed padded_q padded_k in=bf16 out=bf16 lse",
        "b3 h4/2 q5:300:70 k100:300:33 d128 packed in=e4m3 sq=block128 sk=block128 sv=block128 "
        "out=bf16 window=50/0",
        "b3 h4/2 q5:300:70 k100:300:33 d64 packed in=bf16 out=bf16 sdpa=fp8 causal_br lse",
        "b3 h4/2 q5:300:70 k100:300:33 d128 packed in=bf16 out=bf16 sdpa=int8qk causal_br lse "
        "rope=halves positions",
        "b3 h4/2 q5:300:70 k100:300:33 d128 packed in=bf16 out=bf16 sdpa=int8qk+v_mean causal_br "
        "rope=interleaved",
        "b2 h4/2 q100 k200 padded_q padded_k d128 in=bf16 out=bf16 causal_br lse",
        "b2 h4/2 q100 k200 padded_q padded_k d128 in=bf16 out=bf16 sdpa=int8qk causal_br",
        "b2 h4/2 q100 k200 padded_q padded_k d128 in=e4m3 out=bf16"}) {
    SCOPED_TRACE(line);
    const GpuCase gpu_case(line);
    if (!refusal(gpu_case).empty()) continue;
    run_simply(gpu_case);
    const std::vector<std::byte> expected = gpu_case.result();
    const Integers integers(gpu_case);
    ASSERT_GT(integers.count(), 0u);
    for (const Ints& pattern : kPatterns) {
      integers.spoil(pattern);
      EXPECT_NO_THROW(run_simply(gpu_case));
      ASSERT_NO_THROW(finish_gpu()) << "pattern " << pattern.front();
    }
    integers.restore();
    run_simply(gpu_case);
    EXPECT_EQ(gpu_case.result(), expected);
  }
}

}  // namespace
}  // namespace sotto::test

// Tensors of more than 2^31 elements.
#include "gpu_case.h"

namespace sotto::test {
namespace {

class Sizes : public OnGpu {};

// A small case as the last sequence of a batch so long that it lies beyond 2^31 elements; all
// before it is 0.
TEST_F(Sizes, TensorsBeyond32Bits) {
  constexpr std::int64_t kBatch = (std::int64_t{1} << 17) + 8;
  std::size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "free memory");
  if (free < std::size_t{60} << 30) GTEST_SKIP() << "no device: one with 60 GiB free is needed";
  for (const char* line :
       {"q128 k128 h1 d128 in=bf16 out=bf16 causal",
        "q128 k128 h1 d128 in=e4m3 sq=absent sk=absent sv=absent out=bf16 causal",
        "q128 k128 h1 d128 in=bf16 out=bf16 sdpa=fp8 causal",
        "q128 k128 h1 d128 in=bf16 out=bf16 sdpa=int8qk causal"}) {
    SCOPED_TRACE(line);
    const GpuCase small(line);
    if (!refusal(small).empty()) continue;
    run_simply(small);
    const std::vector<std::byte> expected = small.result();

    AttentionArgs args = small.args;
    std::vector<std::shared_ptr<std::byte>> memory;
    for (Tensor* tensor : {&args.q, &args.k, &args.v, &args.out}) {
      const auto bytes = static_cast<std::size_t>(tensor->numel() * dtype_size(tensor->dtype));
      memory.push_back(allocate_on_gpu(bytes * kBatch));
      fill_bytes(memory.back().get(), 0, bytes * kBatch);
      copy_bytes(memory.back().get() + bytes * (kBatch - 1), tensor->at(0), bytes);
      tensor->data = memory.back().get();
      tensor->shape[0] = kBatch;
    }
    if (small.c.recipe) {
      sdpa(args, small.options);
    } else {
      attention(args);
    }
    finish_gpu();
    std::vector<std::byte> last(expected.size());
    copy_bytes(last.data(), memory.back().get() + last.size() * (kBatch - 1), last.size());
    EXPECT_EQ(last, expected);
  }
}

}  // namespace
}  // namespace sotto::test

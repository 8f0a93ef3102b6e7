// Times sdpa()'s quantisation of Q, K and V on a GPU beside a copy of as many bytes as it must read
// and write, for recipes and lengths: gpu_quantize [--heads 32] [--heads-kv 32] [--dim 128]
// [--lens 1024,8192,131072] [--calls 24].
//
// Medians over replays of a graph of several calls, whose tensors take turns so that the caches
// hold none of them.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/error.h"
#include "cuda/quantize/qkv.h"

namespace sotto {
namespace {

using cuda::check;

struct Memory {
  explicit Memory(std::size_t bytes) { check(cudaMalloc(&data, bytes), "cudaMalloc"); }
  ~Memory() { cudaFree(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* data = nullptr;
};

// bf16 numbers with magnitudes from 0.25 to 2, of either sign.
__global__ void fill(std::uint32_t* pairs, std::size_t count, std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761u + seed;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    pairs[i] = (x & 0x81ff81ffu) + 0x3e803e80u;
  }
}

__global__ void copy(uint4* to, const uint4* from, std::size_t count) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    to[i] = from[i];
  }
}

// Microseconds of call(i), the median over replays.
double time_calls(int calls, const std::function<void(int, cudaStream_t)>& call) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) call(i, stream);
  cudaGraph_t graph;
  check(cudaStreamEndCapture(stream, &graph), "capture");
  cudaGraphExec_t executable;
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    check(cudaEventRecord(begin, stream), "event");
    check(cudaGraphLaunch(executable, stream), "launch");
    check(cudaEventRecord(end, stream), "event");
    check(cudaStreamSynchronize(stream), "replay");
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    if (i > 1) times.push_back(1e3 * milliseconds / calls);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

struct Shape {
  std::int64_t heads = 32, heads_kv = 32, dim = 128;
};

void time_length(const Shape& shape, std::int64_t len, int most_calls) {
  const Device device{DeviceType::cuda, 0};
  const std::int64_t elements_q = len * shape.heads * shape.dim;
  const std::int64_t elements_kv = len * shape.heads_kv * shape.dim;
  const std::int64_t elements = elements_q + 2 * elements_kv;
  const std::size_t moved = static_cast<std::size_t>(3 * elements);  // 2 bytes read, 1 written
  const int sets =
      static_cast<int>(std::clamp<std::size_t>((std::size_t{500} << 20) / moved, 2, 24));
  const int calls = static_cast<int>(std::clamp<std::size_t>((std::size_t{16} << 30) / moved, 2,
                                                             static_cast<std::size_t>(most_calls)));

  std::vector<std::unique_ptr<Memory>> inputs, workspaces;
  for (int i = 0; i < sets; ++i) {
    inputs.push_back(std::make_unique<Memory>(static_cast<std::size_t>(2 * elements)));
    fill<<<1024, 256>>>(static_cast<std::uint32_t*>(inputs.back()->data),
                        static_cast<std::size_t>(elements / 2), static_cast<std::uint32_t>(i));
  }
  Memory tables(static_cast<std::size_t>(len * shape.dim * 4));
  fill<<<1024, 256>>>(static_cast<std::uint32_t*>(tables.data),
                      static_cast<std::size_t>(len * shape.dim), 77);
  check(cudaDeviceSynchronize(), "fill");

  const auto request = [&](int i) {
    auto* data = static_cast<std::uint16_t*>(inputs[static_cast<std::size_t>(i % sets)]->data);
    AttentionArgs args;
    args.q = Tensor(data, Dtype::bf16, {1, len, shape.heads, shape.dim}, device);
    args.k = Tensor(data + elements_q, Dtype::bf16, {1, len, shape.heads_kv, shape.dim}, device);
    args.v = Tensor(data + elements_q + elements_kv, Dtype::bf16,
                    {1, len, shape.heads_kv, shape.dim}, device);
    args.out = args.q;
    args.out.data = tables.data;  // not written here, but it must not be an input
    return args;
  };
  const auto options = [&](const std::string& recipe, bool rope) {
    SdpaOptions result{.recipe = Recipe::parse(recipe)};
    if (rope) {
      auto* data = static_cast<float*>(tables.data);
      result.rope.cos = Tensor(data, Dtype::f32, {len, shape.dim / 2}, device);
      result.rope.sin =
          Tensor(data + len * shape.dim / 2, Dtype::f32, {len, shape.dim / 2}, device);
    }
    return result;
  };

  const std::size_t half = moved / 2 / 16 * 16;
  Memory copied(half * static_cast<std::size_t>(sets));
  const auto input = [&](int i) { return inputs[static_cast<std::size_t>(i % sets)]->data; };
  const auto output = [&](int i) {
    return static_cast<std::byte*>(copied.data) + half * static_cast<std::size_t>(i % sets);
  };
  const double engine = time_calls(calls, [&](int i, cudaStream_t stream) {
    check(cudaMemcpyAsync(output(i), input(i), half, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  const double kernel = time_calls(calls, [&](int i, cudaStream_t stream) {
    copy<<<132 * 8, 512, 0, stream>>>(reinterpret_cast<uint4*>(output(i)),
                                      static_cast<const uint4*>(input(i)), half / 16);
    check(cudaGetLastError(), "copy");
  });
  const double best = std::min(engine, kernel);
  std::printf("len %lld heads %lld/%lld dim %lld: copy of %.1f MB %.2f us (%.0f GB/s)\n",
              static_cast<long long>(len), static_cast<long long>(shape.heads),
              static_cast<long long>(shape.heads_kv), static_cast<long long>(shape.dim),
              static_cast<double>(moved) / 2e6, best, static_cast<double>(moved) / best / 1e3);

  struct Row {
    const char* recipe;
    bool rope;
  };
  for (const Row& row :
       {Row{"int8qk", true}, Row{"int8qk", false}, Row{"int8qk+smooth_k=off", true},
        Row{"int8qk+smooth_k=off+hadamard=none", false}, Row{"fp8", true}, Row{"fp8", false},
        Row{"fp8-hadamard", true}}) {
    const SdpaOptions with = options(row.recipe, row.rope);
    const cuda::QkvQuantizer quantizer(request(0), with, describe(request(0)));
    workspaces.clear();
    for (int i = 0; i < sets; ++i) {
      workspaces.push_back(std::make_unique<Memory>(quantizer.workspace_size()));
    }
    const double time = time_calls(calls, [&](int i, cudaStream_t stream) {
      quantizer.run(request(i), with,
                    static_cast<std::byte*>(workspaces[static_cast<std::size_t>(i % sets)]->data),
                    nullptr, stream);
    });
    std::printf("  %-36s %-5s %9.2f us  copy/time %.3f\n", row.recipe, row.rope ? "+rope" : "",
                time, best / time);
  }
}

std::vector<std::int64_t> parse_list(const char* text) {
  std::vector<std::int64_t> numbers;
  for (char* end; *text != '\0'; text = *end == ',' ? end + 1 : end) {
    numbers.push_back(std::strtoll(text, &end, 10));
    if (end == text) break;
  }
  return numbers;
}

int run(int argc, char** argv) {
  Shape shape;
  std::vector<std::int64_t> lens{1024, 8192, 131072};
  int calls = 24;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--heads") shape.heads = std::atoll(argv[i + 1]);
    if (name == "--heads-kv") shape.heads_kv = std::atoll(argv[i + 1]);
    if (name == "--dim") shape.dim = std::atoll(argv[i + 1]);
    if (name == "--lens") lens = parse_list(argv[i + 1]);
    if (name == "--calls") calls = std::atoi(argv[i + 1]);
  }
  for (std::int64_t len : lens) time_length(shape, len, calls);
  return 0;
}

}  // namespace
}  // namespace sotto

int main(int argc, char** argv) {
  try {
    return sotto::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

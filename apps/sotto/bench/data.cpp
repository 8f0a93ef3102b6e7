#include "bench/data.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "bench/gpu.h"
#include "command.h"
#include "core/aligned_buffer.h"
#include "core/element.h"
#include "core/geometry.h"
#include "run/tensor_files.h"
#include "sotto/kv_cache.h"
#include "sotto/sdpa.h"

namespace sotto::cli {
namespace {

constexpr double kMebi = 1 << 20;
constexpr std::array<float, 2> kE4m3Scale = {56.0f, 1 / 56.0f}, kI8Scale = {36.0f, 1 / 36.0f};

double size_of(const Tensor& tensor) {
  return static_cast<double>(tensor.numel()) * static_cast<double>(dtype_size(tensor.dtype));
}

std::int64_t pages_of(const BenchCase& bench) {
  return core::ceil_div(bench.len_k, bench.page_size);
}

// Nearly normal, mean 0 and variance 1: the sum of four uniform numbers, from a hash of i.
float random_number(std::uint64_t i) {
  std::uint64_t z = i * 0x9e3779b97f4a7c15u;  // SplitMix64 (Steele, Lea, Flood 2014)
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  const std::uint64_t sum = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
  constexpr float kDeviation = 65536 / 1.7320508f;  // of the sum: 65536 · sqrt(4 / 12)
  return (static_cast<float>(sum) - 2 * 65535.5f) / kDeviation;
}

template <class T>
T number_of(float x) {
  if constexpr (std::is_same_v<T, std::int8_t>)
    return static_cast<std::int8_t>(std::lround(x * kI8Scale[0]));
  else if constexpr (std::is_same_v<T, e4m3>)
    return e4m3(x * kE4m3Scale[0]);
  else
    return T(x);
}

// The tensors of a case, on its device. AttentionArgs points into it.
class Data {
 public:
  Data(const BenchCase& bench, const std::string& backend)
      : device_(bench.device), backend_(backend) {
    make_tensors(bench);
    args.mask = bench.mask.mask;
    args.softcap = static_cast<float>(bench.softcap);
    args.backend = backend_;
    args.descale = {.q = scale_of(args.q), .k = scale_of(args.k), .v = scale_of(args.v)};
  }
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;

  AttentionArgs args;
  std::vector<std::int64_t> lens_q, lens_k;  // of each sequence

  Workspace workspace(std::size_t bytes) {
    if (device_.type == DeviceType::cpu && static_cast<double>(bytes) > machine_memory())
      throw Error(fmt::format("the workspace needs {:.3g} MiB, this machine has {:.3g} MiB",
                              static_cast<double>(bytes) / kMebi, machine_memory() / kMebi));
    return buffers_.emplace_back(std::make_unique<core::AlignedBuffer>(bytes, device_))->span();
  }

  // Random numbers.
  Tensor numbers(Dtype dtype, const std::vector<std::int64_t>& shape) {
    const Tensor tensor = make(dtype, shape);
    const std::int64_t count = tensor.numel();
    const std::uint64_t seed = next_seed_ += 1'000'003'007;
    core::with_element_type(dtype, [&]<class T>(T) {
      write<T>(tensor, [&](T* data) {
#pragma omp parallel for schedule(static)
        for (std::int64_t i = 0; i < count; ++i)
          data[i] = number_of<T>(random_number(seed + static_cast<std::uint64_t>(i)));
      });
    });
    return tensor;
  }

  Tensor integers(const std::vector<std::int64_t>& values) {
    const Tensor tensor = make(Dtype::i32, {static_cast<std::int64_t>(values.size())});
    write<std::int32_t>(tensor, [&](std::int32_t* data) {
      std::transform(values.begin(), values.end(), data,
                     [](std::int64_t value) { return static_cast<std::int32_t>(value); });
    });
    return tensor;
  }

  Scale scale_of(const Tensor& tensor) {
    if (!core::is_quantized(tensor.dtype)) return {};
    const Tensor scale = make(Dtype::f32, {1});
    write<float>(scale, [&](float* data) {
      *data = tensor.dtype == Dtype::i8 ? kI8Scale[1] : kE4m3Scale[1];
    });
    return Scale::per_tensor(scale);
  }

 private:
  Tensor make(Dtype dtype, const std::vector<std::int64_t>& shape) {
    Tensor tensor = contiguous_view("shape", nullptr, dtype, shape);
    tensor.device = device_;
    const auto bytes = static_cast<std::size_t>(size_of(tensor));
    tensor.data =
        buffers_.emplace_back(std::make_unique<core::AlignedBuffer>(bytes, device_))->span().data();
    // In memory now, not at the first call.
    if (device_.type == DeviceType::cpu) std::memset(tensor.data, 0, bytes);
    return tensor;
  }

  // Has f write a tensor's elements, to memory of the host.
  template <class T, class F>
  void write(const Tensor& tensor, F&& f) {
    if (device_.type == DeviceType::cpu) return f(static_cast<T*>(tensor.data));
    const core::AlignedBuffer host(static_cast<std::size_t>(size_of(tensor)));
    f(reinterpret_cast<T*>(host.span().data()));
    upload(tensor.data, host.span().data(), host.span().size());
  }

  void make_tensors(const BenchCase& bench) {
    const auto [batch, hq, hkv] = std::array{bench.batch, bench.heads_q, bench.heads_kv};
    const auto [dtype_q, dtype_k, dtype_v] =
        std::array{bench.dtypes.q, bench.dtypes.k, bench.dtypes.v};
    if (bench.layout == KvLayout::varlen) {
      const std::int64_t total_q = pack(bench.len_q, batch, lens_q, args.seq.cu_seqlens_q);
      const std::int64_t total_k = pack(bench.len_k, batch, lens_k, args.seq.cu_seqlens_k);
      args.seq.max_len_q = bench.len_q;
      args.seq.max_len_k = bench.len_k;
      args.q = numbers(dtype_q, {total_q, hq, bench.dim_qk});
      args.k = numbers(dtype_k, {total_k, hkv, bench.dim_qk});
      args.v = numbers(dtype_v, {total_k, hkv, bench.dim_v});
      args.out = make(bench.dtypes.out, {total_q, hq, bench.dim_v});
      return;
    }
    lens_q.assign(static_cast<std::size_t>(batch), bench.len_q);
    lens_k.assign(static_cast<std::size_t>(batch), bench.len_k);
    args.q = numbers(dtype_q, {batch, bench.len_q, hq, bench.dim_qk});
    args.out = make(bench.dtypes.out, {batch, bench.len_q, hq, bench.dim_v});
    std::int64_t rows = batch, tokens = bench.len_k;
    if (bench.layout == KvLayout::paged) {
      tokens = bench.page_size;
      rows = batch * pages_of(bench);
      std::vector<std::int64_t> pages(static_cast<std::size_t>(rows));
      std::iota(pages.begin(), pages.end(), 0);
      std::shuffle(pages.begin(), pages.end(), std::mt19937());
      Tensor table = integers(pages);
      args.cache.page_table = contiguous_view("page_table", table.data, Dtype::i32,
                                              std::array<std::int64_t, 2>{batch, pages_of(bench)});
      args.cache.page_table.device = device_;
    }
    args.k = numbers(dtype_k, {rows, tokens, hkv, bench.dim_qk});
    args.v = numbers(dtype_v, {rows, tokens, hkv, bench.dim_v});
    if (bench.layout != KvLayout::dense) args.seq.seqused_k = integers(lens_k);
  }

  // Lengths from half to all of `len`; returns their sum.
  std::int64_t pack(std::int64_t len, std::int64_t batch, std::vector<std::int64_t>& lens,
                    Tensor& cu_seqlens) {
    std::vector<std::int64_t> offsets = {0};
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t missing = len / 2 * (batch - 1 - b) / std::max<std::int64_t>(1, batch - 1);
      lens.push_back(len - missing);
      offsets.push_back(offsets.back() + lens.back());
    }
    cu_seqlens = integers(offsets);
    return offsets.back();
  }

  Device device_;
  std::string backend_;
  std::uint64_t next_seed_ = 0;
  std::vector<std::unique_ptr<core::AlignedBuffer>> buffers_;
};

double visible_pairs(const Data& data) {
  const Problem problem = sotto::describe(data.args);
  double pairs = 0;
  for (std::size_t b = 0; b < data.lens_q.size(); ++b) {
    core::Sequence sequence;
    sequence.len_q = data.lens_q[b];
    sequence.len_k = data.lens_k[b];
    if (problem.mask_align == Mask::Align::bottom_right)
      sequence.offset = sequence.len_k - sequence.len_q;
    for (std::int64_t i = 0; i < sequence.len_q; ++i) {
      const core::KeyRange range = core::visible_keys(problem, sequence, i);
      if (!range.empty()) pairs += static_cast<double>(range.end - range.begin);
    }
  }
  return pairs * static_cast<double>(problem.heads_q);
}

Work attention_work(const BenchCase& bench, const Data& data, const AttentionArgs& args) {
  const double pairs = visible_pairs(data);
  const double queries = size_of(args.q) + size_of(args.out);
  double keys = size_of(args.k) + size_of(args.v);
  if (bench.layout == KvLayout::paged)  // the last page's rest is not read
    keys *=
        static_cast<double>(bench.len_k) / static_cast<double>(pages_of(bench) * bench.page_size);
  return {.flops_qk = 2 * pairs * static_cast<double>(bench.dim_qk),
          .flops_pv = 2 * pairs * static_cast<double>(bench.dim_v),
          .bytes = queries + keys};
}

// What quantize_qkv() made: all that is not where it was.
double quantized_size(const AttentionArgs& before, const AttentionArgs& after) {
  double bytes = 0;
  const auto add = [&](const Tensor& tensor, const Tensor& original) {
    if (tensor && tensor.data != original.data) bytes += size_of(tensor);
  };
  add(after.q, before.q);
  add(after.k, before.k);
  add(after.v, before.v);
  add(after.v_lo, {});
  add(after.descale.q.values, {});
  add(after.descale.k.values, {});
  add(after.descale.v.values, {});
  return bytes;
}

BenchCall attention_call(const BenchCase& bench, const std::shared_ptr<Data>& data) {
  const auto plan = std::make_shared<AttentionPlan>(data->args);
  const Workspace workspace = data->workspace(plan->workspace_size());
  return {.run = [data, plan, workspace] { plan->run(data->args, workspace); },
          .backend = std::string(plan->backend()),
          .work = attention_work(bench, *data, data->args),
          .workspace_bytes = workspace.size(),
          .quantized_bytes = 0};
}

BenchCall sdpa_call(const BenchCase& bench, const std::shared_ptr<Data>& data,
                    const Recipe& recipe) {
  const SdpaOptions options{.recipe = recipe, .rope = {}, .positions_k = {}};
  const auto plan = std::make_shared<SdpaPlan>(data->args, options);
  const auto before = std::make_unique<core::AlignedBuffer>(plan->workspace_size(), bench.device);
  const AttentionArgs quantized = quantize_qkv(data->args, options, *plan, before->span()).args();
  BenchCall call{.run = {},
                 .backend = std::string(plan->backend()),
                 .work = attention_work(bench, *data, data->args),
                 .workspace_bytes = plan->workspace_size(),
                 .quantized_bytes = quantized_size(data->args, quantized)};
  const Workspace workspace = data->workspace(plan->workspace_size());
  if (bench.op == BenchOp::sdpa) {
    call.run = [data, plan, options, workspace] { plan->run(data->args, options, workspace); };
  } else if (bench.op == BenchOp::quantize) {
    const double inputs = size_of(data->args.q) + size_of(data->args.k) + size_of(data->args.v);
    call.work = {.bytes = inputs + call.quantized_bytes};
    call.run = [data, plan, options, workspace] {
      quantize_qkv(data->args, options, *plan, workspace);
    };
  } else {
    const QuantizedQkv qkv = quantize_qkv(data->args, options, *plan, workspace);
    call.work = attention_work(bench, *data, qkv.args());
    call.quantized_bytes = 0;  // there already
    call.run = [data, plan, qkv, workspace] { plan->run(qkv, workspace); };
  }
  return call;
}

BenchCall append_call(const BenchCase& bench, const std::shared_ptr<Data>& data) {
  const auto args = std::make_shared<AppendKvArgs>();
  args->k = data->numbers(bench.dtypes.q, {bench.batch, bench.len_q, bench.heads_kv, bench.dim_qk});
  args->v = data->numbers(bench.dtypes.q, {bench.batch, bench.len_q, bench.heads_kv, bench.dim_v});
  args->k_cache = data->args.k;
  args->v_cache = data->args.v;
  args->page_table = data->args.cache.page_table;
  args->cache_seqlens = data->integers(
      std::vector<std::int64_t>(static_cast<std::size_t>(bench.batch), bench.len_k - bench.len_q));
  args->k_descale = data->scale_of(args->k_cache);
  args->v_descale = data->scale_of(args->v_cache);
  args->backend = data->args.backend;
  const Explanation explanation = explain(*args);
  std::string backend;
  for (const BackendAnswer& answer : explanation.answers)
    if (answer.chosen) backend = answer.backend;
  const auto written = [](const Tensor& from, const Tensor& cache) {
    return static_cast<double>(from.numel() * dtype_size(cache.dtype));
  };
  return {.run = [data, args] { append_kv(*args); },
          .backend = backend,
          .work = {.bytes = size_of(args->k) + size_of(args->v) + written(args->k, args->k_cache) +
                            written(args->v, args->v_cache)},
          .workspace_bytes = 0,
          .quantized_bytes = 0};
}

// Of the products that two dtypes can be multiplied by without loss, the fastest.
double matrix_roof(Dtype a, Dtype b, const Roofs& roofs) {
  if (a == Dtype::f32 || b == Dtype::f32) return roofs.matrix_f32;
  const double bf16 = std::max(roofs.matrix_f32, roofs.matrix_bf16);
  if (a == Dtype::i8 && b == Dtype::i8) return std::max(bf16, roofs.matrix_i8);
  return a == Dtype::e4m3 && b == Dtype::e4m3 ? std::max(bf16, roofs.matrix_f8) : bf16;
}

}  // namespace

double machine_memory() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

void check_memory(const BenchCase& bench, double memory) {
  // In floating point: the integers could overflow.
  const auto number = [](std::int64_t x) { return static_cast<double>(x); };
  const auto bytes = [](Dtype dtype) { return static_cast<double>(dtype_size(dtype)); };
  const double queries = number(bench.batch) * number(bench.len_q) * number(bench.heads_q);
  const double len_k = bench.layout == KvLayout::paged
                           ? number(pages_of(bench)) * number(bench.page_size)
                           : number(bench.len_k);
  const double keys = number(bench.batch) * len_k * number(bench.heads_kv);
  const double needed = queries * (number(bench.dim_qk) * bytes(bench.dtypes.q) +
                                   number(bench.dim_v) * bytes(bench.dtypes.out)) +
                        keys * (number(bench.dim_qk) * bytes(bench.dtypes.k) +
                                number(bench.dim_v) * bytes(bench.dtypes.v));
  if (needed > memory)
    throw UsageError(fmt::format(
        "--batch {} --len-q {} --len-k {} --heads-q {} --heads-kv {} --page-size {}: the tensors "
        "need {:.3g} MiB, {} has {:.3g} MiB",
        bench.batch, bench.len_q, bench.len_k, bench.heads_q, bench.heads_kv, bench.page_size,
        needed / kMebi,
        bench.device.type == DeviceType::cpu ? "this machine" : to_string(bench.device),
        memory / kMebi));
}

BenchCall make_call(const BenchCase& bench, const std::string& backend) {
  const auto data = std::make_shared<Data>(bench, backend);
  if (bench.op == BenchOp::append) return append_call(bench, data);
  const Recipe recipe = bench.recipe.empty() ? Recipe::exact() : Recipe::parse(bench.recipe);
  // Exact attention needs no second copy of anything, and takes caches and pages, too.
  if (bench.op == BenchOp::attention && recipe == Recipe::exact())
    return attention_call(bench, data);
  return sdpa_call(bench, data, recipe);
}

Bound bound_of(const BenchCase& bench, const Work& work, const Roofs& roofs) {
  if (work.flops() == 0) return {1e-9 * work.bytes / roofs.copy, "memory"};
  Dtype q = bench.dtypes.q, k = bench.dtypes.k, v = bench.dtypes.v;
  if (!bench.recipe.empty()) {
    const Recipe recipe = Recipe::parse(bench.recipe);
    if (recipe.qk != QkFormat::exact) q = k = recipe.qk == QkFormat::int8 ? Dtype::i8 : Dtype::e4m3;
    if (recipe.v != VFormat::exact) v = Dtype::e4m3;
  }
  if (matrix_roof(q, k, roofs) == 0) return {1e-9 * work.bytes / roofs.read, "memory"};
  const double matrix =
      1e-9 * (work.flops_qk / matrix_roof(q, k, roofs) + work.flops_pv / matrix_roof(v, v, roofs));
  const double memory = 1e-9 * work.bytes / roofs.read;
  return matrix > memory ? Bound{matrix, "matrix"} : Bound{memory, "memory"};
}

}  // namespace sotto::cli

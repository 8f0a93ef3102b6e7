#include "gpu_case.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>

namespace sotto::test {
namespace {

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel() * dtype_size(tensor.dtype));
}

// The numbers of a contiguous out.
std::vector<double> numbers_of(const GpuCase& gpu_case) {
  const Tensor& out = gpu_case.args.out;
  const std::vector<std::byte> bytes = gpu_case.result();
  std::vector<double> numbers;
  for (std::int64_t n = 0; n < out.numel(); ++n) {
    numbers.push_back(
        static_cast<double>(load_float(out.dtype, bytes.data() + n * dtype_size(out.dtype))));
  }
  return numbers;
}

}  // namespace

void OnGpu::SetUp() {
  for (const auto& backend : backends::list()) {
    if (backend->name() != kBackend) continue;
    const Reasons reasons = backend->unusable();
    if (!reasons.empty())
      GTEST_SKIP() << "no device: " << fmt::format("{}", fmt::join(reasons, "; "));
    return;
  }
  FAIL() << "there is no backend " << kBackend;
}

GpuCase::GpuCase(const std::string& line) : c(line), mirror_(kBackend) {
  make_request(c, make_data(c), request_);
  reader_.emplace(c, request_.q, arena_, 1.0);
  args = request_.args;
  args.backend = kBackend;
  args.out = reader_->out();
  args.output = reader_->output();
  args.lse = reader_->lse();
  args = mirror_.place(args);
  options = mirror_.place(request_.options);
}

std::vector<std::byte> GpuCase::result() const {
  finish_gpu();
  std::vector<std::byte> bytes(bytes_of(args.out) + bytes_of(args.lse));
  copy_bytes(bytes.data(), args.out.at(0), bytes_of(args.out));
  if (args.lse) {
    copy_bytes(bytes.data() + bytes_of(args.out), args.lse.at(0), bytes_of(args.lse));
  }
  return bytes;
}

void GpuCase::spoil_result() const {
  fill_bytes(args.out.at(0), 0xff, bytes_of(args.out));
  if (args.lse) fill_bytes(args.lse.at(0), 0xff, bytes_of(args.lse));
  finish_gpu();
}

void GpuCase::take_inputs_of(const GpuCase& other) const {
  std::vector<const Tensor*> from;
  core::each_tensor(other.args, [&](const char*, core::Access, const Tensor& tensor) {
    from.push_back(&tensor);
  });
  std::size_t n = 0;
  core::each_tensor(args, [&](const char*, core::Access access, const Tensor& to) {
    const Tensor& source = *from[n++];
    if (to && access == core::Access::read) copy_bytes(to.at(0), source.at(0), bytes_of(to));
  });
}

Plan::Plan(const GpuCase& gpu_case) {
  if (gpu_case.c.recipe) {
    sdpa_.emplace(gpu_case.args, gpu_case.options);
  } else {
    attention_.emplace(gpu_case.args);
  }
}

std::size_t Plan::workspace_size() const {
  return sdpa_ ? sdpa_->workspace_size() : attention_->workspace_size();
}

void Plan::run(const GpuCase& gpu_case, Workspace workspace, cudaStream_t stream) const {
  if (sdpa_) {
    sdpa_->run(gpu_case.args, gpu_case.options, workspace, {stream});
  } else {
    attention_->run(gpu_case.args, workspace, {stream});
  }
}

Reasons refusal(const GpuCase& gpu_case) {
  const Explanation explanation =
      gpu_case.c.recipe ? explain(gpu_case.args, gpu_case.options) : explain(gpu_case.args);
  for (const BackendAnswer& answer : explanation.answers) {
    if (answer.backend == kBackend) return answer.reasons;
  }
  return {"is not registered"};
}

std::vector<std::string> kinds() {
  std::vector<std::string> taken;
  for (const std::string& line : kAllKinds) {
    if (refusal(GpuCase(line)).empty()) taken.push_back(line);
  }
  return taken;
}

void run_simply(const GpuCase& gpu_case, cudaStream_t stream) {
  if (gpu_case.c.recipe) {
    sdpa(gpu_case.args, gpu_case.options, {stream});
  } else {
    attention(gpu_case.args, {stream});
  }
}

class KindsOfKernels : public OnGpu {};

TEST_F(KindsOfKernels, AreAllThere) {
  for (const std::string& line : kAllKinds) {
    for (const std::string& reason : refusal(GpuCase(line)))
      ADD_FAILURE() << line << ": " << reason;
  }
}

double difference_db(const GpuCase& a, const GpuCase& b) {
  const std::vector<double> x = numbers_of(a), y = numbers_of(b);
  double power = 0, error = 0;
  for (std::size_t n = 0; n < x.size(); ++n) {
    power += x[n] * x[n];
    error += (x[n] - y[n]) * (x[n] - y[n]);
  }
  if (std::isnan(error)) return -std::numeric_limits<double>::infinity();
  return error == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(power / error);
}

}  // namespace sotto::test

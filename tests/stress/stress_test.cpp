// Many threads at once: plans made, shared and run, every operation, while backends come and go,
// are activated and restored, and log callbacks change. Every result must have the bits that it has
// when nothing else runs, and no call may fail.
//
// SOTTO_STRESS_SECONDS: how long, in all (default 4).
#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "aligned_memory.h"
#include "random_cases.h"
#include "request.h"

namespace sotto::test {
namespace {

using Bits = std::vector<std::byte>;

template <class T>
void append(Bits& bits, const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  bits.insert(bits.end(), bytes, bytes + values.size() * sizeof(T));
}

// Something to compute again and again, on a backend or, where the name is empty, on any.
class Job {
 public:
  virtual ~Job() = default;
  virtual Bits run(const std::string& backend) const = 0;
  virtual std::string name() const = 0;
};

// attention() or sdpa() of a case of the table.
class CaseJob final : public Job {
 public:
  explicit CaseJob(const std::string& line) : case_(line) {
    make_request(case_, make_data(case_), request_);
  }
  Bits run(const std::string& backend) const override {
    Bits bits;
    for (const Rows& rows : run_plain(case_, request_, backend).sequences) {
      append(bits, rows.o);
      append(bits, rows.lse);
    }
    return bits;
  }
  std::string name() const override { return case_.line; }

 private:
  AttentionCase case_;
  Request request_;
};

constexpr std::int64_t kBatch = 2, kLen = 40, kHeads = 2, kDim = 64;

std::vector<float> normal(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  Random random(7);
  fill_normal(values, random);
  return values;
}

// quantize() with Hadamard, then what it wrote into a cache.
class TransformJob final : public Job {
 public:
  Bits run(const std::string& backend) const override {
    std::vector<e4m3> codes(x_.size()), k_cache(x_.size()), v_cache(x_.size());
    std::vector<float> descale(kBatch * kLen * kHeads), mean(kBatch * kHeads * kDim);
    const std::vector<std::int32_t> nothing(kBatch);
    const Tensor x(x_.data(), {kBatch, kLen, kHeads, kDim});
    channel_mean({.x = x, .mean = Tensor(mean.data(), {kBatch, kHeads, kDim}), .backend = backend});
    quantize({.x = x,
              .out = Tensor(codes.data(), {kBatch, kLen, kHeads, kDim}),
              .descale = Tensor(descale.data(), {kBatch, kLen, kHeads}),
              .hadamard = true,
              .mean = Tensor(mean.data(), {kBatch, kHeads, kDim}),
              .backend = backend});
    append_kv({.k = x,
               .v = x,
               .k_cache = Tensor(k_cache.data(), {kBatch, kLen, kHeads, kDim}),
               .v_cache = Tensor(v_cache.data(), {kBatch, kLen, kHeads, kDim}),
               .cache_seqlens = Tensor(nothing.data(), {kBatch}),
               .hadamard_k = true,
               .backend = backend});
    Bits bits;
    append(bits, codes);
    append(bits, descale);
    append(bits, mean);
    append(bits, k_cache);
    append(bits, v_cache);
    return bits;
  }
  std::string name() const override { return "channel_mean, quantize, append_kv"; }

 private:
  std::vector<float> x_ = normal(kBatch * kLen * kHeads * kDim);
};

class MergeJob final : public Job {
 public:
  Bits run(const std::string& backend) const override {
    std::vector<float> out(o_.size()), lse(lse_.size());
    const PartialState state{.out = Tensor(o_.data(), {kBatch, kLen, kHeads, kDim}),
                             .lse = Tensor(lse_.data(), {kBatch, kHeads, kLen})};
    merge_states({.states = {state, state, state},
                  .out = Tensor(out.data(), {kBatch, kLen, kHeads, kDim}),
                  .lse = Tensor(lse.data(), {kBatch, kHeads, kLen}),
                  .backend = backend});
    Bits bits;
    append(bits, out);
    append(bits, lse);
    return bits;
  }
  std::string name() const override { return "merge_states"; }

 private:
  std::vector<float> o_ = normal(kBatch * kLen * kHeads * kDim),
                     lse_ = normal(kBatch * kHeads * kLen);
};

// A plan that all threads run, each with its own output and workspace.
class SharedPlanJob final : public Job {
 public:
  Bits run(const std::string&) const override {
    std::vector<float> out(x_.size());
    AttentionArgs args = args_;
    args.out = Tensor(out.data(), {kBatch, kLen, kHeads, kDim});
    AlignedMemory workspace(plan_.workspace_size()), sdpa_workspace(sdpa_.workspace_size());
    Bits bits;
    plan_.run(args, workspace.span());
    append(bits, out);
    sdpa_.run(args, {}, sdpa_workspace.span());
    append(bits, out);
    return bits;
  }
  std::string name() const override { return "shared plans"; }

 private:
  std::vector<float> x_ = normal(kBatch * kLen * kHeads * kDim), out_ = x_;
  Tensor tensor_{x_.data(), {kBatch, kLen, kHeads, kDim}};
  AttentionArgs args_{.q = tensor_,
                      .k = tensor_,
                      .v = tensor_,
                      .out = Tensor(out_.data(), {kBatch, kLen, kHeads, kDim}),
                      .mask = Mask::causal(),
                      .backend = "cpu"};
  AttentionPlan plan_{args_};
  SdpaPlan sdpa_{args_};
};

// The cpu backend under another name, that comes and goes.
class Guest final : public Backend {
 public:
  Guest(std::string name, int priority) : name_(std::move(name)), priority_(priority) {}

  std::string_view name() const override { return name_; }
  std::string_view description() const override { return "cpu under another name"; }
  int priority() const override { return priority_; }
  Reasons refuse(const Problem& problem) const override { return cpu_->refuse(problem); }
  std::unique_ptr<const AttentionKernel> plan(const AttentionArgs& args,
                                              const Problem& problem) const override {
    return cpu_->plan(args, problem);
  }
  Reasons refuse(const QuantizeArgs& args) const override { return cpu_->refuse(args); }
  Reasons refuse(const ChannelMeanArgs& args) const override { return cpu_->refuse(args); }
  Reasons refuse(const AppendKvArgs& args) const override { return cpu_->refuse(args); }
  Reasons refuse(const MergeArgs& args) const override { return cpu_->refuse(args); }
  void run(const QuantizeArgs& args, Stream s) const override { cpu_->run(args, s); }
  void run(const ChannelMeanArgs& args, Stream s) const override { cpu_->run(args, s); }
  void run(const AppendKvArgs& args, Stream s) const override { cpu_->run(args, s); }
  void run(const MergeArgs& args, Stream s) const override { cpu_->run(args, s); }

 private:
  static std::shared_ptr<const Backend> find_cpu() {
    for (const auto& backend : backends::list()) {
      if (backend->name() == "cpu") return backend;
    }
    throw std::logic_error("there is no backend cpu");
  }

  std::string name_;
  int priority_;
  std::shared_ptr<const Backend> cpu_ = find_cpu();
};

class Stress : public testing::Test {
 protected:
  Stress() {
    for (const std::string& line : random_cases(500, 24)) {
      jobs_.push_back(std::make_unique<CaseJob>(line));
    }
    jobs_.push_back(std::make_unique<TransformJob>());
    jobs_.push_back(std::make_unique<MergeJob>());
    jobs_.push_back(std::make_unique<SharedPlanJob>());
    for (const auto& job : jobs_) {
      alone_.push_back({job->run("cpu"), job->run("reference")});
    }
  }

  // Runs jobs until time is up: by name, which fixes the bits, or on whatever backend is chosen.
  void work(unsigned number) {
    omp_set_num_threads(2);
    for (std::size_t n = number; !stop_; ++n) {
      const std::size_t j = n % jobs_.size();
      const char* backend = std::array{"", "cpu", "reference"}[(n / jobs_.size() + n) % 3];
      try {
        const Bits bits = jobs_[j]->run(backend);
        const bool cpu = bits == alone_[j].cpu, reference = bits == alone_[j].reference;
        const bool right = *backend == '\0' ? cpu || reference : *backend == 'c' ? cpu : reference;
        if (!right) fail(jobs_[j]->name() + " on '" + backend + "' has other bits");
      } catch (const std::exception& error) {
        fail(jobs_[j]->name() + ": " + error.what());
      }
      ++done_;
    }
  }

  // Changes the registry and looks at it.
  void come_and_go(const std::string& name, int priority) {
    while (!stop_) {
      try {
        backends::add(std::make_shared<Guest>(name, priority));
        backends::activate(name);
        if (backends::list().size() < 3) fail("a backend is missing from the list");
        backends::current();
        std::this_thread::yield();
        backends::restore();
        backends::remove(name);
      } catch (const std::exception& error) {
        fail(error.what());
      }
    }
  }

  void explain_and_log() {
    const std::vector<float> x(16);
    const Tensor t(x.data(), {1, 1, 1, 16});
    std::vector<float> out(16);
    while (!stop_) {
      set_log_callback([this](LogLevel, std::string_view text) { logged_ += text.size(); });
      try {
        const Explanation e =
            explain({.q = t, .k = t, .v = t, .out = Tensor(out.data(), {1, 1, 1, 16})});
        if (e.answers.size() < 2 || e.text().empty()) fail("an explanation lacks answers");
      } catch (const std::exception& error) {
        fail(error.what());
      }
      set_log_callback(
          [this](LogLevel level, std::string_view) { warned_ += level == LogLevel::warning; });
    }
  }

  void fail(const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (failures_.size() < 10) failures_.push_back(what);
  }

  // All of it for a while.
  void run(std::chrono::duration<double> time) {
    stop_ = false;
    set_log_callback([this](LogLevel, std::string_view text) { logged_ += text.size(); });
    std::vector<std::thread> threads;
    for (unsigned n = 0; n < 6; ++n) threads.emplace_back([this, n] { work(n * 7); });
    threads.emplace_back([this] { come_and_go("guest", 1'000'000); });
    threads.emplace_back([this] { come_and_go("visitor", -5); });
    threads.emplace_back([this] { explain_and_log(); });
    std::this_thread::sleep_for(time);
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
    set_log_callback({});
  }

  struct Alone {
    Bits cpu, reference;
  };
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<Alone> alone_;
  std::atomic<bool> stop_{false};
  std::atomic<std::size_t> done_{0}, logged_{0}, warned_{0};
  std::mutex mutex_;
  std::vector<std::string> failures_;
};

// The environment is read on every call, and POSIX forbids changing it meanwhile: it changes
// between the rounds.
TEST_F(Stress, ThreadsDoNotDisturbEachOther) {
  const char* seconds = std::getenv("SOTTO_STRESS_SECONDS");
  const std::chrono::duration<double> time(seconds == nullptr ? 4.0 : std::atof(seconds));
  const std::vector<std::pair<const char*, const char*>> settings{{"SOTTO_LOG", ""},
                                                                  {"SOTTO_LOG", "debug"},
                                                                  {"SOTTO_BACKEND", "reference"},
                                                                  {"SOTTO_DISABLE", "cpu"}};
  for (const auto& [variable, value] : settings) {
    setenv(variable, value, 1);
    run(time / settings.size());
    unsetenv(variable);
  }
  for (const std::string& failure : failures_) ADD_FAILURE() << failure;
  RecordProperty("jobs", static_cast<int>(done_));
  EXPECT_GT(done_, jobs_.size());
  EXPECT_GT(logged_, 0u);
  EXPECT_EQ(backends::list().size(), 2u);
  EXPECT_EQ(backends::current(), "");
}

}  // namespace
}  // namespace sotto::test

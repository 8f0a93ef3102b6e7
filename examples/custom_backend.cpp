// A backend of one's own: what it takes, what it refuses and why, and how it is chosen.
//
// This one is the textbook's three loops, for the plainest requests only.
#include <sotto/sotto.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <random>
#include <span>
#include <vector>

namespace {

// What plan() returns: all that was settled, and how to run it. Requests are checked before they
// come here, so that shapes and dtypes are those of the Problem.
class TextbookKernel : public sotto::AttentionKernel {
 public:
  explicit TextbookKernel(const sotto::Problem& problem) : p_(problem) {}

  // Scores of one row. A kernel allocates nothing; what it needs it asks for here.
  std::size_t workspace_size() const override { return p_.len_k * sizeof(float); }

  void run(const sotto::AttentionArgs& args, sotto::Workspace workspace,
           sotto::Stream) const override {
    const std::span<float> scores(reinterpret_cast<float*>(workspace.data()), p_.len_k);
    for (int b = 0; b < p_.batch; ++b)
      for (int h = 0; h < p_.heads_q; ++h)
        for (int i = 0; i < p_.len_q; ++i) attend(args, b, h, i, scores);
  }

 private:
  // Strides are the caller's and may differ from run to run.
  static float* row(const sotto::Tensor& t, int b, int token, int h) {
    return static_cast<float*>(t.data) + b * t.stride(0) + token * t.stride(1) + h * t.stride(2);
  }

  void attend(const sotto::AttentionArgs& args, int b, int h, int i,
              std::span<float> scores) const {
    const int h_kv = static_cast<int>(h / (p_.heads_q / p_.heads_kv));
    const float* q = row(args.q, b, i, h);
    float largest = -INFINITY, sum = 0;
    for (int j = 0; j < p_.len_k; ++j) {
      const float* k = row(args.k, b, j, h_kv);
      scores[j] = 0;
      for (int d = 0; d < p_.dim_qk; ++d) scores[j] += p_.scale * q[d] * k[d];
      largest = std::max(largest, scores[j]);
    }
    float* out = row(args.out, b, i, h);
    std::fill_n(out, p_.dim_v, 0.0f);
    for (int j = 0; j < p_.len_k; ++j) {
      const float weight = std::exp(scores[j] - largest);
      const float* v = row(args.v, b, j, h_kv);
      for (int d = 0; d < p_.dim_v; ++d) out[d] += weight * v[d];
      sum += weight;
    }
    for (int d = 0; d < p_.dim_v; ++d) out[d] /= sum;
  }

  sotto::Problem p_;
};

class TextbookBackend : public sotto::Backend {
 public:
  std::string_view name() const override { return "textbook"; }
  std::string_view description() const override { return "three loops in fp32"; }
  int priority() const override { return -1; }  // below the library's own: only when asked for

  // What this backend can do is said here and nowhere else. Compare the whole Problem with the one
  // that the backend was written for: a feature that a later version of the library adds is then
  // refused as well. All reasons, each with what to do instead.
  sotto::Reasons refuse(const sotto::Problem& p) const override {
    sotto::Reasons reasons;
    const sotto::Problem plain{.device = {sotto::DeviceType::cpu},
                               .batch = p.batch,
                               .len_q = p.len_q,
                               .len_k = p.len_k,
                               .rows_q = p.rows_q,
                               .heads_q = p.heads_q,
                               .heads_kv = p.heads_kv,
                               .dim_qk = p.dim_qk,
                               .dim_v = p.dim_v,
                               .dtype_q = sotto::Dtype::f32,
                               .dtype_k = sotto::Dtype::f32,
                               .dtype_v = sotto::Dtype::f32,
                               .dtype_out = sotto::Dtype::f32,
                               .scale = p.scale};
    if (p.mask_left != -1 || p.mask_right != -1)
      reasons.push_back("has no masks: use Mask::none()");
    if (p.dtype_q != sotto::Dtype::f32) reasons.push_back("computes in f32 only: convert q, k, v");
    if (p.len_k == 0) reasons.push_back("needs a key: leave empty sequences out");
    if (reasons.empty() && p != plain) reasons.push_back("runs plain dense f32 attention only");
    return reasons;
  }

  std::unique_ptr<const sotto::AttentionKernel> plan(const sotto::AttentionArgs&,
                                                     const sotto::Problem& problem) const override {
    return std::make_unique<TextbookKernel>(problem);
  }
};

std::vector<float> random_numbers(std::size_t count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(generator);
  return numbers;
}

}  // namespace

int main() {
  sotto::backends::add(std::make_shared<TextbookBackend>());

  const auto q = random_numbers(32 * 4 * 64), k = random_numbers(48 * 2 * 64),
             v = random_numbers(48 * 2 * 64);
  std::vector<float> ours(q.size()), theirs(q.size());
  sotto::AttentionArgs args{.q = {q.data(), {1, 32, 4, 64}},
                            .k = {k.data(), {1, 48, 2, 64}},
                            .v = {v.data(), {1, 48, 2, 64}},
                            .out = {theirs.data(), {1, 32, 4, 64}}};
  sotto::attention(args);  // by rules: the able one of the highest priority

  // A request may name its backend; activate() takes every request there until restore().
  sotto::backends::activate("textbook");
  args.out = {ours.data(), {1, 32, 4, 64}};
  sotto::attention(args);
  float difference = 0;
  for (std::size_t i = 0; i < ours.size(); ++i)
    difference = std::max(difference, std::abs(ours[i] - theirs[i]));
  std::printf("largest difference from the library's own: %.6f\n\n", difference);

  // What is asked for by name does not quietly go elsewhere: this is Unsupported, with all reasons.
  args.mask = sotto::Mask::causal();
  try {
    sotto::attention(args);
  } catch (const sotto::Unsupported& refusal) {
    std::cout << refusal.what() << "\n\n";
  }

  // Without the activation the next able one takes it; explain() shows what every backend says.
  sotto::backends::restore();
  std::cout << sotto::explain(args);
}

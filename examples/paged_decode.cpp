// Decoding with a paged FP8 cache, as a serving engine does it: append the new keys and values,
// attend over the pages, pick the next token, again. Then one step in two parts that are merged, as
// where sequences share a prefix or the cache is spread over machines.
#include <sotto/sotto.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

namespace {

constexpr int kHeadsQ = 8, kHeadsKv = 2, kDim = 64;
constexpr int kWidthQ = kHeadsQ * kDim, kWidthKv = kHeadsKv * kDim;  // numbers in a token's q, k, v
constexpr int kPageSize = 16, kPages = 32, kPagesPerSequence = 8;

std::vector<float> random_numbers(std::size_t count) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& x : numbers) x = normal(generator);
  return numbers;
}

// Stands in for a language model: random weights that give each token a query, a key and a value,
// and that judge which token follows an output of attention.
struct Model {
  static constexpr int kVocabulary = 1000;
  std::vector<float> q = random_numbers(kVocabulary * kWidthQ);
  std::vector<float> k = random_numbers(kVocabulary * kWidthKv);
  std::vector<float> v = random_numbers(kVocabulary * kWidthKv);
  std::vector<float> head = random_numbers(kVocabulary * kWidthQ);

  // The rows of `weights` that belong to the tokens.
  static std::vector<float> look_up(const std::vector<float>& weights,
                                    const std::vector<int>& tokens) {
    const auto width = weights.size() / kVocabulary;
    std::vector<float> rows;
    for (const int token : tokens)
      rows.insert(rows.end(), &weights[token * width], &weights[token * width] + width);
    return rows;
  }

  int next_token(const float* out) const {
    int best = 0;
    float best_score = -INFINITY;
    for (int token = 0; token < kVocabulary; ++token) {
      const float score = std::inner_product(out, out + kWidthQ, &head[token * kWidthQ], 0.0f);
      if (score > best_score) best = token, best_score = score;
    }
    return best;
  }
};

// One pool of pages for all sequences. Keys and values are e4m3 with a scale for each token and
// head, which append_kv() finds and writes.
class PagedCache {
 public:
  explicit PagedCache(int batch) : table_(batch * kPagesPerSequence, -1), lens_(batch, 0) {}

  // Appends the tokens of all sequences, packed: those of sequence b are starts[b] … starts[b+1]-1.
  void append(const std::vector<float>& k, const std::vector<float>& v,
              const std::vector<std::int32_t>& starts) {
    for (int b = 0; b < batch(); ++b) give_pages(b, lens_[b] + starts[b + 1] - starts[b]);
    const int total = starts.back();
    sotto::append_kv(
        // A model with RoPE sets .rope, too, and turns q by quantize(), with the same positions.
        {.k = {k.data(), {total, kHeadsKv, kDim}},
         .v = {v.data(), {total, kHeadsKv, kDim}},
         .k_cache = pages(k_),
         .v_cache = pages(v_),
         .cache_seqlens = {lens_.data(), {batch()}},
         .cu_seqlens = {starts.data(), {batch() + 1}},
         .page_table = table(),
         .k_descale = scales(k_scales_),
         .v_descale = scales(v_scales_)});
    for (int b = 0; b < batch(); ++b) lens_[b] += starts[b + 1] - starts[b];
  }

  // A request for attention over all that is in the cache. The last query sees the last key: the
  // mask is aligned bottom right.
  sotto::AttentionArgs request(const sotto::Tensor& q, const sotto::Tensor& out) {
    return {.q = q,
            .k = pages(k_),
            .v = pages(v_),
            .out = out,
            .mask = sotto::Mask::causal_bottom_right(),
            .descale = {.k = scales(k_scales_), .v = scales(v_scales_)},
            .seq = {.seqused_k = {lens_.data(), {batch()}}},
            .cache = {.page_table = table()}};
  }

  int batch() const { return static_cast<int>(lens_.size()); }
  const std::vector<std::int32_t>& lens() const { return lens_; }

 private:
  // The table's entries beyond a sequence's length are never read.
  void give_pages(int sequence, int len) {
    for (int page = 0; page * kPageSize < len; ++page) {
      std::int32_t& entry = table_.at(sequence * kPagesPerSequence + page);
      if (entry == -1) entry = next_page_++;
    }
  }

  static sotto::Tensor pages(std::vector<sotto::e4m3>& numbers) {
    return {numbers.data(), {kPages, kPageSize, kHeadsKv, kDim}};
  }
  static sotto::Scale scales(std::vector<float>& numbers) {
    return sotto::Scale::per_token({numbers.data(), {kPages, kPageSize, kHeadsKv}});
  }
  sotto::Tensor table() { return {table_.data(), {batch(), kPagesPerSequence}}; }

  std::vector<sotto::e4m3> k_ = std::vector<sotto::e4m3>(kPages * kPageSize * kWidthKv), v_ = k_;
  std::vector<float> k_scales_ = std::vector<float>(kPages * kPageSize * kHeadsKv),
                     v_scales_ = k_scales_;
  std::vector<std::int32_t> table_;  // [batch, pages per sequence]
  std::vector<std::int32_t> lens_;   // tokens in the cache, by sequence
  std::int32_t next_page_ = 0;
};

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

// A workspace wants to begin at a multiple of 64 bytes.
struct alignas(64) CacheLine {
  std::byte bytes[64];
};

}  // namespace

int main() {
  const Model model;
  std::vector<std::vector<int>> sequences = {std::vector<int>(40), std::vector<int>(25)};
  for (auto& prompt : sequences) std::iota(prompt.begin(), prompt.end(), 100);
  const int batch = static_cast<int>(sequences.size());
  PagedCache cache(batch);

  // The prompts, packed: q is [total, heads, dim], and cu_seqlens_q cuts it into sequences.
  std::vector<int> prompts;
  std::vector<std::int32_t> starts = {0};
  for (const auto& prompt : sequences) {
    prompts.insert(prompts.end(), prompt.begin(), prompt.end());
    starts.push_back(static_cast<std::int32_t>(prompts.size()));
  }
  const int total = starts.back();
  const auto prompt_q = Model::look_up(model.q, prompts);
  std::vector<float> prompt_out(prompt_q.size());
  cache.append(Model::look_up(model.k, prompts), Model::look_up(model.v, prompts), starts);
  auto prefill = cache.request({prompt_q.data(), {total, kHeadsQ, kDim}},
                               {prompt_out.data(), {total, kHeadsQ, kDim}});
  prefill.seq.cu_seqlens_q = {starts.data(), {batch + 1}};
  sotto::attention(prefill);

  std::vector<int> tokens;  // the newest of each sequence
  for (int b = 0; b < batch; ++b)
    tokens.push_back(model.next_token(&prompt_out[(starts[b + 1] - 1) * kWidthQ]));

  // Decoding: one query a sequence. The plan is made once; lengths and pages are looked at in each
  // run.
  std::vector<float> q(batch * kWidthQ), out(q.size());
  const sotto::Tensor q_view(q.data(), {batch, 1, kHeadsQ, kDim});
  const sotto::Tensor out_view(out.data(), {batch, 1, kHeadsQ, kDim});
  const sotto::AttentionPlan plan(cache.request(q_view, out_view));
  std::vector<CacheLine> memory(plan.workspace_size() / sizeof(CacheLine) + 1);

  std::vector<std::int32_t> one_each(batch + 1);
  std::iota(one_each.begin(), one_each.end(), 0);
  for (int step = 0; step < 20; ++step) {
    for (int b = 0; b < batch; ++b) sequences[b].push_back(tokens[b]);
    std::ranges::copy(Model::look_up(model.q, tokens), q.begin());
    cache.append(Model::look_up(model.k, tokens), Model::look_up(model.v, tokens), one_each);
    plan.run(cache.request(q_view, out_view), std::as_writable_bytes(std::span(memory)));
    for (int b = 0; b < batch; ++b) tokens[b] = model.next_token(&out[b * kWidthQ]);
  }

  for (int b = 0; b < batch; ++b) {
    // The same without a cache, in fp32: all keys of the sequence for its last query.
    const int len = cache.lens()[b];
    const auto k = Model::look_up(model.k, sequences[b]), v = Model::look_up(model.v, sequences[b]);
    std::vector<float> exact(kWidthQ);
    sotto::attention({.q = {&q[b * kWidthQ], {1, 1, kHeadsQ, kDim}},
                      .k = {k.data(), {1, len, kHeadsKv, kDim}},
                      .v = {v.data(), {1, len, kHeadsKv, kDim}},
                      .out = {exact.data(), {1, 1, kHeadsQ, kDim}}});
    const std::vector<float> cached(&out[b * kWidthQ], &out[b * kWidthQ] + kWidthQ);
    std::printf("sequence %d: %d tokens, largest difference from fp32 without a cache: %.3f\n", b,
                len, largest_difference(exact, cached));
  }

  // The last step in two parts: the first two pages of each sequence, then the rest. Each part
  // leaves its output and its log-sum-exp; merging weighs them. The last query sees every key, so
  // that no part needs a mask.
  constexpr int kFirstPages = 2;
  std::vector<std::int32_t> first_lens, rest_lens;
  for (const std::int32_t len : cache.lens()) {
    first_lens.push_back(std::min(len, kFirstPages * kPageSize));
    rest_lens.push_back(len - first_lens.back());
  }
  std::vector<float> first_out(out.size()), rest_out(out.size()), merged(out.size());
  std::vector<float> first_lse(batch * kHeadsQ), rest_lse(batch * kHeadsQ);

  auto first = cache.request(q_view, {first_out.data(), {batch, 1, kHeadsQ, kDim}});
  first.lse = {first_lse.data(), {batch, kHeadsQ, 1}};
  first.mask = sotto::Mask::none();
  first.seq.seqused_k = {first_lens.data(), {batch}};
  sotto::attention(first);

  auto rest = cache.request(q_view, {rest_out.data(), {batch, 1, kHeadsQ, kDim}});
  rest.lse = {rest_lse.data(), {batch, kHeadsQ, 1}};
  rest.mask = sotto::Mask::none();
  rest.seq.seqused_k = {rest_lens.data(), {batch}};
  sotto::Tensor& table = rest.cache.page_table;  // a view of the later columns
  table.data = static_cast<std::int32_t*>(table.data) + kFirstPages;
  table.shape[1] -= kFirstPages;
  sotto::attention(rest);

  sotto::merge_states(
      {.states = {{.out = first.out, .lse = first.lse}, {.out = rest.out, .lse = rest.lse}},
       .out = {merged.data(), {batch, 1, kHeadsQ, kDim}}});
  std::printf("in two parts, merged: largest difference %.6f\n", largest_difference(out, merged));
}

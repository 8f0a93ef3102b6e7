#include "models/linear.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "sotto/error.h"

namespace sotto::models {
namespace {

using dnnl::memory;

// Row count for which oneDNN chooses the packed layout; other counts then take the same layout.
constexpr std::int64_t kTypicalRows = 256;

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

memory::desc row_major(std::int64_t rows, std::int64_t cols) {
  return {{rows, cols}, memory::data_type::f32, memory::format_tag::ab};
}

memory view(const memory::desc& desc, const float* data) {
  return {desc, engine(), const_cast<float*>(data)};
}

}  // namespace

struct Linear::Impl {
  std::int64_t in, out = 0;
  dnnl::stream stream{engine()};
  memory weights;                                                 // [in, out], packed
  std::map<std::pair<std::int64_t, bool>, dnnl::matmul> by_rows;  // (rows, add)

  dnnl::matmul::primitive_desc describe(std::int64_t rows, const memory::desc& weights_desc,
                                        bool add) const {
    dnnl::primitive_attr attributes;
    if (add) {
      dnnl::post_ops sum;
      sum.append_sum();
      attributes.set_post_ops(sum);
    }
    return {{row_major(rows, in), weights_desc, row_major(rows, out)}, attributes, engine()};
  }

  void apply(const float* x, std::int64_t rows, float* y, bool add) {
    if (rows == 0) return;
    auto found = by_rows.find({rows, add});
    if (found == by_rows.end())
      found = by_rows.emplace(std::pair{rows, add}, describe(rows, weights.get_desc(), add)).first;
    found->second.execute(stream, {{DNNL_ARG_SRC, view(row_major(rows, in), x)},
                                   {DNNL_ARG_WEIGHTS, weights},
                                   {DNNL_ARG_DST, view(row_major(rows, out), y)}});
    stream.wait();
  }
};

Linear::Linear(std::int64_t in, std::initializer_list<std::span<const float>> parts)
    : impl_(std::make_unique<Impl>()) {
  impl_->in = in;
  std::vector<float> stacked;
  for (const auto& part : parts) {
    if (in <= 0 || part.empty() || part.size() % static_cast<std::size_t>(in) != 0)
      throw InvalidArgument("weights", "expected a matrix of " + std::to_string(in) +
                                           " columns, got " + std::to_string(part.size()) +
                                           " numbers");
    stacked.insert(stacked.end(), part.begin(), part.end());
  }
  impl_->out = static_cast<std::int64_t>(stacked.size()) / in;

  const auto shape = memory::dims{in, impl_->out};
  const memory::desc plain(shape, memory::data_type::f32, memory::format_tag::ba);
  const memory::desc any(shape, memory::data_type::f32, memory::format_tag::any);
  impl_->weights = memory(impl_->describe(kTypicalRows, any, false).weights_desc(), engine());
  memory source = view(plain, stacked.data());
  dnnl::reorder(source, impl_->weights).execute(impl_->stream, source, impl_->weights);
  impl_->stream.wait();
}

Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

std::int64_t Linear::in() const { return impl_->in; }
std::int64_t Linear::out() const { return impl_->out; }

void Linear::apply(const float* x, std::int64_t rows, float* y) { impl_->apply(x, rows, y, false); }
void Linear::apply_add(const float* x, std::int64_t rows, float* y) {
  impl_->apply(x, rows, y, true);
}

}  // namespace sotto::models

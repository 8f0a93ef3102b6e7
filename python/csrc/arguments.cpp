#include "arguments.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <utility>

namespace sotto::bridge {
namespace {

template <class T>
T take(StableIValue*& next) {
  return torch::stable::detail::to<T>(*next++);
}

}  // namespace

Tensor Arguments::keep(std::string_view argument, TorchTensor tensor, std::string_view dtypes) {
  Tensor seen;
  defer([&] { seen = view(argument, tensor, dtypes); });
  tensors_.push_back(std::move(tensor));
  return seen;
}

std::string_view Arguments::keep(std::string text) { return texts_.emplace_back(std::move(text)); }

Tensor Arguments::tensor(std::string_view argument, std::string_view dtypes) {
  return keep(argument, take<TorchTensor>(next_), dtypes);
}

Tensor Arguments::optional_tensor(std::string_view argument) {
  auto tensor = take<std::optional<TorchTensor>>(next_);
  return tensor ? keep(argument, std::move(*tensor)) : Tensor();
}

std::vector<Tensor> Arguments::tensors(std::string_view argument) {
  std::vector<Tensor> seen;
  for (TorchTensor& tensor : take<std::vector<TorchTensor>>(next_))
    seen.push_back(keep(argument, std::move(tensor)));
  return seen;
}

Dtype Arguments::dtype(std::string_view argument) {
  Dtype seen{};
  defer([&] { seen = dtype_from(argument, take<std::int32_t>(next_)); });
  return seen;
}

std::optional<Dtype> Arguments::optional_dtype(std::string_view argument) {
  std::optional<Dtype> seen;
  defer([&] {
    if (const auto code = take<std::optional<std::int32_t>>(next_))
      seen = dtype_from(argument, *code);
  });
  return seen;
}

std::int64_t Arguments::integer() { return take<std::int64_t>(next_); }
float Arguments::number() { return static_cast<float>(take<double>(next_)); }
bool Arguments::flag() { return take<bool>(next_); }

std::optional<float> Arguments::optional_number() {
  const auto number = take<std::optional<double>>(next_);
  if (!number) return std::nullopt;
  return static_cast<float>(*number);
}

std::string_view Arguments::text() { return keep(take<std::string>(next_)); }

std::string_view Arguments::optional_text() {
  auto text = take<std::optional<std::string>>(next_);
  return text ? keep(std::move(*text)) : std::string_view();
}

void Arguments::check() const {
  if (error_) throw InvalidArgument(*error_);
}

void take_request(Arguments& in, AttentionArgs& args) {
  args.scale = in.optional_number();
  args.softcap = in.number();
  args.mask.left = in.integer();
  args.mask.right = in.integer();
  args.mask.align = in.flag() ? Mask::Align::bottom_right : Mask::Align::top_left;
  args.mask.dense = in.optional_tensor("mask.dense");
  args.sinks = in.optional_tensor("sinks");
  args.seq.cu_seqlens_q = in.optional_tensor("seq.cu_seqlens_q");
  args.seq.cu_seqlens_k = in.optional_tensor("seq.cu_seqlens_k");
  args.seq.seqused_q = in.optional_tensor("seq.seqused_q");
  args.seq.seqused_k = in.optional_tensor("seq.seqused_k");
  args.seq.max_len_q = in.integer();
  args.seq.max_len_k = in.integer();
  args.dropout_p = in.number();
  args.needs_backward = in.flag();
  args.output.scale = in.optional_tensor("output.scale");
  args.backend = in.optional_text();
}

std::string scale_schema(const std::string& name, const std::string& tensor) {
  return tensor + "? " + name + "=None, str? " + name + "_granularity=None, SymInt " + name +
         "_block=0, Tensor? " + name + "_cu_blocks=None";
}

Scale take_scale(Arguments& in, const std::string& name) {
  Scale scale(in.optional_tensor(name));
  const std::string_view granularity = in.optional_text();
  if (!granularity.empty())
    in.defer([&] { scale.granularity = granularity_from(name, granularity); });
  scale.block = in.integer();
  scale.cu_blocks = in.optional_tensor(name + ".cu_blocks");
  return scale;
}

Rope take_rope(Arguments& in) {
  Rope rope;
  rope.cos = in.optional_tensor("rope.cos");
  rope.sin = in.optional_tensor("rope.sin");
  rope.interleaved = in.flag();
  rope.rotary_dim = in.integer();
  rope.positions = in.optional_tensor("rope.positions");
  return rope;
}

int to_int(std::string_view argument, std::int64_t value) {
  if (!std::in_range<int>(value)) {
    throw InvalidArgument(std::string(argument),
                          "must fit into 32 bits, got " + std::to_string(value));
  }
  return static_cast<int>(value);
}

Granularity granularity_from(std::string_view argument, std::string_view name) {
  constexpr std::array kNames{
      std::pair{"tensor", Granularity::tensor}, std::pair{"head", Granularity::head},
      std::pair{"kv_head", Granularity::kv_head}, std::pair{"block", Granularity::block},
      std::pair{"token", Granularity::token}};
  for (const auto& [known, granularity] : kNames)
    if (known == name) return granularity;
  throw InvalidArgument(
      std::string(argument),
      "granularity must be tensor, head, kv_head, block or token, got '" + std::string(name) + "'");
}

}  // namespace sotto::bridge

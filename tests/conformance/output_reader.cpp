#include "output_reader.h"

#include <algorithm>
#include <cmath>

namespace sotto::test {
namespace {

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Positions in the order of memory, from the figure in cuBLAS' documentation ("1D block scaling
// factors layout"): tiles of 128 rows and 4 columns, in which row r lies at r % 32, then r / 32.
std::vector<std::int64_t> swizzle(std::int64_t rows, std::int64_t columns) {
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(rows * columns));
  std::int64_t offset = 0;
  for (std::int64_t tile_row = 0; tile_row < rows; tile_row += 128) {
    for (std::int64_t tile_column = 0; tile_column < columns; tile_column += 4) {
      for (std::int64_t r = 0; r < 32; ++r) {
        for (std::int64_t quarter = 0; quarter < 4; ++quarter) {
          for (std::int64_t column = 0; column < 4; ++column) {
            const std::int64_t row = tile_row + quarter * 32 + r;
            offsets[static_cast<std::size_t>(row * columns + tile_column + column)] = offset++;
          }
        }
      }
    }
  }
  return offsets;
}

}  // namespace

void store_float(Dtype dtype, std::byte* to, float value) {
  if (dtype == Dtype::f32) *reinterpret_cast<float*>(to) = value;
  if (dtype == Dtype::f16) *reinterpret_cast<f16*>(to) = f16(value);
  if (dtype == Dtype::bf16) *reinterpret_cast<bf16*>(to) = bf16(value);
}

float load_float(Dtype dtype, const std::byte* from) {
  switch (dtype) {
    case Dtype::f16:
      return static_cast<float>(*reinterpret_cast<const f16*>(from));
    case Dtype::bf16:
      return static_cast<float>(*reinterpret_cast<const bf16*>(from));
    case Dtype::e4m3:
      return static_cast<float>(*reinterpret_cast<const e4m3*>(from));
    case Dtype::i8:
      return static_cast<float>(*reinterpret_cast<const std::int8_t*>(from));
    default:
      return *reinterpret_cast<const float*>(from);
  }
}

float output_scale(const AttentionCase& c, double amax) {
  const double safe = amax > 0 ? amax : 1.0;
  if (c.output == OutputKind::nvfp4) {
    return static_cast<float>(448.0 * 6.0 / safe * static_cast<double>(c.range));
  }
  return static_cast<float>(safe / 448.0 * static_cast<double>(c.range));
}

OutputReader::OutputReader(const AttentionCase& c, const Placing& placing, Arena& arena,
                           double amax)
    : c_(c), placing_(placing) {
  const bool nvfp4 = c.output == OutputKind::nvfp4;
  out_ = placing.make(arena, c.dtype_out, c.heads_q, nvfp4 ? c.dim_v / 2 : c.dim_v, c.order);
  const std::int64_t tokens = placing.packed ? placing.rows : placing.rows * placing.capacity;
  if (c.output == OutputKind::fp8 || nvfp4) {
    output_.scale = arena.copy(std::vector<float>{output_scale(c, amax)}, {1});
  }
  if (nvfp4) {
    const std::int64_t rows = round_up(tokens, 128);
    const std::int64_t columns = round_up(c.heads_q * c.dim_v / 16, 4);
    output_.group_scale = arena.make(Dtype::e4m3, {rows, columns});
    nvfp4_offsets_ = swizzle(rows, columns);
  } else if (c.output == OutputKind::fp8_groups) {
    const Dtype dtype = c.ue8m0_scales ? Dtype::ue8m0 : Dtype::f32;
    const std::int64_t columns = c.heads_q * c.dim_v / c.group;
    const std::int64_t pad = c.padded_scales ? 3 : 0;
    if (c.column_major) {
      const Tensor memory = arena.make(dtype, {columns, tokens + pad});
      output_.group_scale = Tensor(memory.data, dtype, {tokens, columns}, {1, tokens + pad});
    } else {
      const Tensor memory = arena.make(dtype, {tokens, columns + pad});
      output_.group_scale = Tensor(memory.data, dtype, {tokens, columns}, {columns + pad, 1});
    }
  }
  if (c.lse) lse_ = placing.make_head_major(arena, c.batch, c.heads_q, placing.capacity);
}

void OutputReader::fault(const std::string& text) {
  if (result_.faults.size() < 5) result_.faults.push_back(text);
}

double OutputReader::group_scale(std::int64_t row, std::int64_t column) const {
  const Tensor& scales = output_.group_scale;
  if (c_.output == OutputKind::nvfp4) {
    const auto index = static_cast<std::size_t>(row * scales.size(1) + column);
    return static_cast<double>(load_float(Dtype::e4m3, scales.at(nvfp4_offsets_[index])));
  }
  const std::byte* at = scales.at(row * scales.stride(0) + column * scales.stride(1));
  if (scales.dtype == Dtype::f32) return static_cast<double>(load_float(Dtype::f32, at));
  return std::ldexp(1.0, static_cast<int>(*at) - 127);
}

void OutputReader::check_group(const double* codes, double scale) {
  double largest = 0;
  for (std::int64_t d = 0; d < c_.group; ++d) largest = std::max(largest, std::fabs(codes[d]));
  if (c_.output == OutputKind::nvfp4) {
    const bool normal = scale >= 0x1p-6 && scale < 448.0;
    if (normal && largest != 6.0) fault("a group of 16 does not use e2m1's range");
    if (scale == 0.0 && largest != 0.0) fault("a group of 16 with scale 0 holds numbers");
    return;
  }
  if (largest == 0.0) {
    if (scale != 1.0) fault("a group of zeros must have scale 1");
  } else if (c_.ue8m0_scales ? largest < 224.0 && scale > 0x1p-126
                             : largest != 448.0 && scale > 0x1.8p-126) {
    fault("a group does not use e4m3's range: its largest number is " + std::to_string(largest));
  }
}

void OutputReader::read_row(std::size_t b, std::int64_t i, std::int64_t head, double* o) {
  const std::byte* from = placing_.at(out_, b, i, head);
  const std::int64_t row = placing_.packed ? placing_.first[b] + i
                                           : static_cast<std::int64_t>(b) * placing_.capacity + i;
  for (std::int64_t d = 0; d < c_.dim_v; ++d) {
    if (c_.output == OutputKind::nvfp4) {
      const auto byte = static_cast<unsigned>(from[d / 2]);
      o[d] = static_cast<double>(
          static_cast<float>(e2m1::from_bits(static_cast<std::uint8_t>(byte >> d % 2 * 4 & 0xf))));
    } else {
      o[d] = static_cast<double>(load_float(out_.dtype, from + d * dtype_size(out_.dtype)));
    }
  }
  if (c_.output == OutputKind::plain) return;
  const double g = output_.scale ? *static_cast<const float*>(output_.scale.data) : 1.0;
  if (c_.output == OutputKind::fp8) {
    for (std::int64_t d = 0; d < c_.dim_v; ++d) o[d] *= g;
    return;
  }
  for (std::int64_t begin = 0; begin < c_.dim_v; begin += c_.group) {
    const double scale = group_scale(row, (head * c_.dim_v + begin) / c_.group);
    check_group(o + begin, scale);
    for (std::int64_t d = begin; d < begin + c_.group; ++d) o[d] *= scale / g;
  }
}

void OutputReader::check_nvfp4_padding() {
  if (c_.output != OutputKind::nvfp4) return;
  const Tensor& scales = output_.group_scale;
  const std::int64_t tokens = placing_.packed ? placing_.rows : placing_.rows * placing_.capacity;
  const std::int64_t used = c_.heads_q * c_.dim_v / 16;
  for (std::int64_t row = 0; row < scales.size(0); ++row) {
    for (std::int64_t column = 0; column < scales.size(1); ++column) {
      if ((row >= tokens || column >= used) && group_scale(row, column) != 0.0) {
        return fault("NVFP4 scales of padding must be 0");
      }
    }
  }
}

void OutputReader::check_gaps() {
  if (c_.order.gap == 0 || out_.numel() == 0) return;
  const std::byte untouched = Arena::untouched(c_.order);
  const std::int64_t inner = out_.size(out_.rank - 1) * dtype_size(out_.dtype);
  std::int64_t last_row = 0;
  for (int d = 0; d + 1 < out_.rank; ++d) last_row += (out_.size(d) - 1) * out_.stride(d);
  for (std::size_t b = 0; b < placing_.first.size(); ++b) {
    for (std::int64_t i = 0; i < rows_q(c_, b); ++i) {
      for (std::int64_t h = 0; h < c_.heads_q; ++h) {
        const std::byte* row = placing_.at(out_, b, i, h);
        if (row != out_.at(last_row) && row[inner] != untouched) {
          return fault("something is written between the rows of out");
        }
      }
    }
  }
}

Result OutputReader::read() {
  for (std::size_t b = 0; b < placing_.first.size(); ++b) {
    Rows rows;
    const std::int64_t count = rows_q(c_, b);
    rows.o.resize(static_cast<std::size_t>(count * c_.heads_q * c_.dim_v));
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t h = 0; h < c_.heads_q; ++h) {
        read_row(b, i, h, rows.o.data() + (i * c_.heads_q + h) * c_.dim_v);
      }
    }
    if (lse_) {
      for (std::int64_t h = 0; h < c_.heads_q; ++h) {
        for (std::int64_t i = 0; i < count; ++i) {
          rows.lse.push_back(static_cast<double>(placing_.head_major(lse_, b, h, i)));
        }
      }
    }
    result_.sequences.push_back(std::move(rows));
  }
  check_nvfp4_padding();
  check_gaps();
  return std::move(result_);
}

std::vector<double> round_to_output(const AttentionCase& c, const std::vector<double>& o,
                                    double amax) {
  const auto value = [](auto code) { return static_cast<double>(static_cast<float>(code)); };
  const auto as_float = [](double x) { return static_cast<float>(x); };
  const double tensor_scale = static_cast<double>(output_scale(c, amax));
  std::vector<double> rounded(o.size());
  const std::size_t group = c.group > 0 ? static_cast<std::size_t>(c.group) : o.size();
  for (std::size_t begin = 0; begin < o.size(); begin += group) {
    double largest = 0;
    for (std::size_t n = begin; n < begin + group; ++n) {
      largest = std::max(largest, std::fabs(o[n]));
    }
    double scale = largest > 0 ? largest / 448.0 : 1.0;
    if (c.ue8m0_scales) scale = std::exp2(std::ceil(std::log2(scale)));
    const double nvfp4_scale = value(e4m3(as_float(tensor_scale * largest / 6.0)));
    for (std::size_t n = begin; n < begin + group; ++n) {
      switch (c.output) {
        case OutputKind::plain:
          rounded[n] = c.dtype_out == Dtype::f16    ? value(f16(as_float(o[n])))
                       : c.dtype_out == Dtype::bf16 ? value(bf16(as_float(o[n])))
                                                    : static_cast<double>(as_float(o[n]));
          break;
        case OutputKind::fp8:
          rounded[n] = value(e4m3(as_float(o[n] / tensor_scale))) * tensor_scale;
          break;
        case OutputKind::fp8_groups:
          rounded[n] = value(e4m3(as_float(o[n] / scale))) * scale;
          break;
        case OutputKind::nvfp4:
          rounded[n] = nvfp4_scale == 0 ? 0
                                        : value(e2m1(as_float(o[n] * tensor_scale / nvfp4_scale))) *
                                              nvfp4_scale / tensor_scale;
          break;
      }
    }
  }
  return rounded;
}

}  // namespace sotto::test

// Requests that sdpa()'s quantiser is tested on.
#pragma once

#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "device_tensors.h"
#include "sotto/backend.h"
#include "sotto/sdpa.h"

namespace sotto::test {

enum class RopeForm { none, halves, interleaved, partial, per_channel };

struct QkvCase {
  std::string name;
  std::string recipe = "int8qk";
  std::vector<int> lens_q, lens_k;  // of each sequence, if packed; else one
  bool packed = false;
  int heads_q = 2, heads_kv = 1, dim_qk = 128, dim_v = 128;
  Dtype dtype = Dtype::bf16;
  RopeForm rope = RopeForm::none;
  bool positions = false;
  bool bottom_right = false;
  bool lse = false;
  bool seqused = false;
  bool special = false;  // NaN and Inf among the values
  int padding = 0;       // elements between rows
  int batch = 1;         // dense
};
inline std::ostream& operator<<(std::ostream& out, const QkvCase& c) { return out << c.name; }

enum class Operand { q, k, v };

// A case with its tensors, on the GPU and on the host.
class QkvData {
 public:
  explicit QkvData(const QkvCase& c);
  QkvData(const QkvData&) = delete;
  QkvData& operator=(const QkvData&) = delete;

  QkvCase c;
  DeviceTensor q, k, v, cos, sin, positions_q, positions_k;
  AttentionArgs args;
  SdpaOptions options;
  Problem problem;

  int batch() const { return c.packed ? static_cast<int>(c.lens_q.size()) : c.batch; }
  // Of sequence b: its tokens, its first one in a packed tensor, and how many of them count.
  int len(Operand operand, int b) const;
  int first(Operand operand, int b) const;
  int used(Operand operand, int b) const;

 private:
  DeviceTensor make(Operand operand, int heads, int dim, float bias);
  DeviceTensor make_offsets(Operand operand) const;
  DeviceTensor make_used(Operand operand) const;
  DeviceTensor make_positions(Operand operand, int positions);
  void make_rope();

  std::mt19937 random_;
  DeviceTensor out_, lse_, cu_q_, cu_k_, used_q_, used_k_;
};

}  // namespace sotto::test

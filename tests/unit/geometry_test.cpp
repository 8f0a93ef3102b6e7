// Where things lie: sequences, pages, bands, scales.
#include "core/geometry.h"

#include <gtest/gtest.h>

#include "host_tensor.h"

namespace sotto::core {
namespace {

using test::HostTensor;

TEST(Geometry, DenseSequences) {
  const HostTensor q(Dtype::f32, {2, 5, 4, 16}), k(Dtype::f32, {2, 7, 2, 16}), out = q;
  AttentionArgs args{.q = q, .k = k, .v = k, .out = out, .mask = Mask::causal_bottom_right()};
  const Sequence s = sequence_at(args, describe(args), 1);
  EXPECT_EQ(s.len_q, 5);
  EXPECT_EQ(s.rows_q, 5);
  EXPECT_EQ(s.len_k, 7);
  EXPECT_EQ(s.first_row, 5);
  EXPECT_EQ(s.offset, 2);
  EXPECT_EQ(row_offset(args.q, s.q, 3, 2), ((1 * 5 + 3) * 4 + 2) * 16);
  EXPECT_EQ(row_offset(args.q.transposed(1, 2).transposed(1, 2), s.q, 3, 2),
            ((1 * 5 + 3) * 4 + 2) * 16);
}

TEST(Geometry, PackedSequencesWithPadding) {
  const HostTensor q(Dtype::f32, {9, 4, 16}), k(Dtype::f32, {11, 2, 16}), out = q;
  const HostTensor cu_q = HostTensor::ints({0, 4, 4, 9}), cu_k = HostTensor::ints({1, 3, 8, 11});
  const HostTensor used_q = HostTensor::ints({3, 0, 5}), used_k = HostTensor::ints({2, 5, 1});
  AttentionArgs args{.q = q, .k = k, .v = k, .out = out, .mask = Mask::window(3, 0)};
  args.seq = {.cu_seqlens_q = cu_q, .cu_seqlens_k = cu_k, .seqused_q = used_q, .seqused_k = used_k};
  const Problem problem = describe(args);
  const Sequence first = sequence_at(args, problem, 0), last = sequence_at(args, problem, 2);
  EXPECT_EQ(first.len_q, 3);
  EXPECT_EQ(first.rows_q, 4);
  EXPECT_EQ(first.offset, 2 - 3);
  EXPECT_EQ(row_offset(args.k, first.kv, 1, 1), (1 + 1) * 32 + 16);
  EXPECT_EQ(sequence_at(args, problem, 1).rows_q, 0);
  EXPECT_EQ(last.first_row, 4);
  EXPECT_EQ(last.len_k, 1);
  EXPECT_EQ(row_offset(args.q, last.q, 2, 3), (4 + 2) * 64 + 3 * 16);
  const HostTensor lse(Dtype::f32, {4, 9});
  EXPECT_EQ(head_major_offset(lse, last.q, 2, 3, 2), 3 * 9 + 6);
}

TEST(Geometry, PagesAndRowsOfACache) {
  const HostTensor q(Dtype::f32, {2, 1, 2, 16}), out = q, pages(Dtype::f32, {5, 3, 2, 16});
  const HostTensor used = HostTensor::ints({4, 6});
  HostTensor table = HostTensor::ints({4, 0, 1, 3});
  AttentionArgs args{.q = q, .k = pages, .v = pages, .out = out};
  args.cache.page_table = Tensor(table.view().data, Dtype::i32, {2, 2});
  args.seq.seqused_k = used;
  const Sequence s = sequence_at(args, describe(args), 1);
  EXPECT_EQ(s.len_k, 6);
  EXPECT_EQ(row_offset(args.k, s.kv, 2, 1), (1 * 3 + 2) * 32 + 16);
  EXPECT_EQ(row_offset(args.k, s.kv, 4, 0), (3 * 3 + 1) * 32);

  const HostTensor rows = HostTensor::ints({4, 2});
  AttentionArgs dense{.q = q, .k = pages, .v = pages, .out = out};
  dense.cache.batch_idx = rows;
  EXPECT_EQ(row_offset(dense.k, sequence_at(dense, describe(dense), 0).kv, 2, 1),
            (4 * 3 + 2) * 32 + 16);
}

TEST(Geometry, BandIsWhatTheMaskSays) {
  for (std::int64_t left : {-1, 0, 3}) {
    for (std::int64_t right : {-1, 0, 2}) {
      for (std::int64_t offset : {-4, 0, 3}) {
        Problem problem;
        problem.mask_left = left;
        problem.mask_right = right;
        Sequence s;
        s.len_k = 9;
        s.offset = offset;
        for (std::int64_t i = 0; i < 8; ++i) {
          const KeyRange keys = visible_keys(problem, s, i);
          for (std::int64_t j = 0; j < s.len_k; ++j) {
            const std::int64_t distance = j - i - offset;
            const bool seen = (left < 0 || -left <= distance) && (right < 0 || distance <= right);
            EXPECT_EQ(seen, j >= keys.begin && j < keys.end)
                << left << " " << right << " " << offset << " " << i << " " << j;
          }
        }
      }
    }
  }
}

// The first block, and those that hold an edge of the band of some query of i's block.
TEST(Geometry, TwoTermsOfVAreUsedAtTheEdgesOfTheBand) {
  for (std::int64_t left : {-1, 140}) {
    for (std::int64_t right : {-1, 0, 5}) {
      for (std::int64_t offset : {0, 300}) {
        Problem problem;
        problem.mask_left = left;
        problem.mask_right = right;
        Sequence s;
        s.len_q = 400;
        s.len_k = 700;
        s.offset = offset;
        for (std::int64_t block = 0; block < 6; ++block) {
          for (std::int64_t tile = 0; tile < 4; ++tile) {
            bool expected = block == 0;
            for (std::int64_t i = tile * 128; i < std::min<std::int64_t>(tile * 128 + 128, 400);
                 ++i) {
              if (right >= 0 && (i + offset + right) / 128 == block) expected = true;
              const std::int64_t first = i + offset - left;
              if (left >= 0 && first >= 0 && first / 128 == block) expected = true;
            }
            EXPECT_EQ(takes_v_lo(problem, s, tile * 128, block), expected)
                << left << " " << right << " " << offset << ", tile " << tile << ", block "
                << block;
          }
        }
      }
    }
  }
}

TEST(Geometry, ScalesOfEveryGranularity) {
  std::vector<float> numbers(256);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  const Placement dense{.index = 1}, packed{.begin = 10, .packed = true};
  const auto table = [&](std::initializer_list<std::int64_t> shape) {
    return Tensor(numbers.data(), shape);
  };
  EXPECT_EQ(ScaleRows({}, dense, 1, 4).at(3, 5), 1.0f);
  EXPECT_EQ(ScaleRows(Scale::per_tensor(table({1})), dense, 1, 4).at(3, 5), 0.0f);
  EXPECT_EQ(ScaleRows(Scale::per_head(table({2, 4})), dense, 1, 4).at(3, 5), 7.0f);
  EXPECT_EQ(ScaleRows(Scale::per_kv_head(table({2, 2})), dense, 1, 4).at(3, 5), 3.0f);
  EXPECT_EQ(ScaleRows(Scale::per_token(table({2, 6, 4})), dense, 1, 4).at(3, 5), 47.0f);
  EXPECT_EQ(ScaleRows(Scale::per_token(table({20, 4})), packed, 1, 4).at(3, 5), 63.0f);
  const Scale by_block = Scale::per_block(table({2, 4, 3}), 4);
  const ScaleRows blocks(by_block, dense, 1, 4);
  EXPECT_EQ(blocks.at(3, 3), 21.0f);
  EXPECT_EQ(blocks.at(3, 4), 22.0f);
  EXPECT_EQ(blocks.run_end(5, 100), 8);
  EXPECT_EQ(blocks.run_end(5, 7), 7);
  const HostTensor cu = HostTensor::ints({0, 2, 6});
  EXPECT_EQ(ScaleRows(Scale::per_block(table({4, 6}), 4, cu), packed, 1, 4).at(3, 4), 21.0f);
  // Stride 0 broadcasts.
  const Tensor same(numbers.data() + 9, Dtype::f32, {2, 4}, {0, 0});
  EXPECT_EQ(ScaleRows(Scale::per_head(same), dense, 1, 4).at(3, 5), 9.0f);
}

TEST(Geometry, ScaleGuessesItsGranularityFromItsRank) {
  float x[64] = {};
  EXPECT_EQ(Scale(Tensor(x, {1})).granularity, Granularity::tensor);
  EXPECT_EQ(Scale(Tensor(x, {2, 4})).granularity, Granularity::head);
  EXPECT_EQ(Scale(Tensor(x, {2, 4, 8})).granularity, Granularity::token);
}

}  // namespace
}  // namespace sotto::core

// SPDX-License-Identifier: Apache-2.0
// Documents in the sequences of the CPU's kernels: what they make of one depends on it alone.
#include "kernels/documents.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/router/router.h"
#include "support/compare.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::message_of;
using test::poisoned_tensor;
using test::random_tensor;
using test::tensor_of;
using test::values_of;

struct Document {
  std::int64_t first, length;  // rows of all sequences
};

constexpr std::int64_t sequences = 2, length = 700;
constexpr double none = no_document;

/// Lengths on both sides of a tile; 38 rows of the second sequence hold nothing.
const std::vector<Document> documents = {{0, 1},     {1, 300},  {301, 256}, {557, 143},
                                         {700, 530}, {1230, 3}, {1233, 129}};

OwnedTensor starts_of(const std::vector<Document>& all) {
  std::vector<double> starts(static_cast<std::size_t>(sequences * length), none);
  for (const Document& document : all)
    std::fill_n(starts.begin() + document.first, document.length,
                static_cast<double>(document.first % length));
  return tensor_of({sequences * length}, DType::i32, starts);
}

struct Attention {
  Attention(std::int64_t rows, DType dtype)
      : q(random_tensor({rows, 4, 16}, dtype, "q")),
        k(random_tensor({rows, 2, 16}, dtype, "k")),
        v(random_tensor({rows, 2, 16}, dtype, "v")),
        d_out(random_tensor({rows, 4, 16}, dtype, "d_out")),
        out(poisoned_tensor({rows, 4, 16}, dtype)),
        d_q(poisoned_tensor({rows, 4, 16}, dtype)),
        d_k(poisoned_tensor({rows, 2, 16}, dtype)),
        d_v(poisoned_tensor({rows, 2, 16}, dtype)) {}

  /// Rows [first, first + shape.batch * shape.query_length).
  void run(const AttentionShape& shape, std::int64_t first) {
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true});
    Stream stream(Device::cpu());
    const std::int64_t end = first + shape.batch * shape.query_length;
    const auto rows = [&](const OwnedTensor& tensor) { return tensor->rows(first, end); };
    const OwnedTensor log_sum_exp =
        poisoned_tensor({shape.batch, shape.heads, shape.query_length}, q->dtype());
    attention_forward(shape, rows(q), rows(k), rows(v), rows(out), *log_sum_exp, scratch, stream);
    attention_backward(shape, rows(d_out), rows(q), rows(k), rows(v), rows(out), *log_sum_exp,
                       rows(d_q), rows(d_k), rows(d_v), scratch, stream);
  }

  OwnedTensor q, k, v, d_out, out, d_q, d_k, d_v;
};

class DocumentKernels : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, DocumentKernels, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

TEST_P(DocumentKernels, AttentionOfADocumentIsThatOfASequenceOfItsOwn) {
  const std::int64_t rows = sequences * length;
  const OwnedTensor starts = starts_of(documents);
  const int threads = omp_get_max_threads();
  for (const int team : {1, 3}) {
    omp_set_num_threads(team);
    Attention together(rows, GetParam()), alone(rows, GetParam());
    together.run({sequences, length, length, 4, 2, 16, *starts}, 0);
    for (const Document& document : documents)
      alone.run({1, document.length, document.length, 4, 2, 16}, document.first);
    for (const Document& document : documents) {
      const auto same = [&](const OwnedTensor& a, const OwnedTensor& b) {
        const std::int64_t end = document.first + document.length;
        return test::relative_error(a->rows(document.first, end), b->rows(document.first, end));
      };
      SCOPED_TRACE(document.first);
      // Not the bits: a gradient of queries is a sum by as many tasks as the call's shape has, and
      // a sequence of one is a decoding step.
      const double rounding = GetParam() == DType::f64 ? 1e-14 : 1e-6;
      EXPECT_LE(same(together.out, alone.out), rounding);
      EXPECT_LE(same(together.d_v, alone.d_v), rounding);
      if (document.length == 1) continue;  // whose score has no gradient
      EXPECT_LE(same(together.d_q, alone.d_q), rounding);
      EXPECT_LE(same(together.d_k, alone.d_k), rounding);
    }
    for (const OwnedTensor* tensor : {&together.out, &together.d_q, &together.d_k, &together.d_v})
      for (const double value : values_of((*tensor)->rows(1362, rows))) ASSERT_EQ(value, 0.0);
  }
  omp_set_num_threads(threads);
}

TEST_P(DocumentKernels, PositionsBeginAnewWithADocument) {
  const DType dtype = GetParam();
  const std::int64_t rows = sequences * length;
  Stream stream(Device::cpu());
  const OwnedTensor starts = starts_of(documents), weight = random_tensor({20}, dtype, "weight");
  const OwnedTensor x = random_tensor({rows, 2, 10}, dtype, "x");
  const OwnedTensor y = poisoned_tensor(x->shape(), dtype),
                    expected = random_tensor(x->shape(), dtype, "x");
  const OwnedTensor rotated = random_tensor(x->shape(), dtype, "x");
  const OwnedTensor inv_rms = poisoned_tensor({rows}, dtype);
  const RotaryPositions positions{.sequence_length = length, .document_starts = *starts};
  norm_rotary_forward(positions, *x, *weight, 1e-5, *y, *inv_rms, stream);
  rotary_forward(positions, *rotated, stream);
  for (const Document& document : documents) {
    SCOPED_TRACE(document.first);
    const std::int64_t end = document.first + document.length;
    const RotaryPositions own{.sequence_length = document.length};
    rotary_forward(own, expected->rows(document.first, end), stream);
    EXPECT_TRUE(
        bitwise_equal(rotated->rows(document.first, end), expected->rows(document.first, end)));
    norm_rotary_forward(own, x->rows(document.first, end), *weight, 1e-5,
                        expected->rows(document.first, end), inv_rms->rows(document.first, end),
                        stream);
    EXPECT_TRUE(bitwise_equal(y->rows(document.first, end), expected->rows(document.first, end)));
  }
}

TEST_P(DocumentKernels, RowsWithoutADocumentGoToNoExpertAndIntoNoStatistic) {
  for (const RouterScores scores : {RouterScores::softmax, RouterScores::sigmoid}) {
    const OwnedTensor starts = tensor_of({6}, DType::i32, {0, 0, none, 0, none, none});
    const RouterShape shape{.tokens = 6,
                            .experts = 4,
                            .top_k = 2,
                            .segments = 2,
                            .segment_tokens = 3,
                            .rule = {.scores = scores, .normalize = true},
                            .document_starts = *starts};
    Arena arena({.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
    Stream stream(Device::cpu());
    RouterState state = allocate_router_state(shape, GetParam(), arena);
    const OwnedTensor logits = random_tensor({6, 4}, GetParam(), "logits", {0.0, 3.0});
    router_forward(shape, *logits, {}, state, arena, stream);
    const std::vector<double> ids = values_of(state.expert_ids);
    std::vector<double> counts(8, 0.0);
    for (std::size_t slot = 0; slot < ids.size(); ++slot) {
      const bool empty = slot / 2 == 2 || slot / 2 >= 4;
      EXPECT_EQ(ids[slot] == -1.0, empty) << slot;
      if (!empty) ++counts[4 * (slot / 6) + static_cast<std::size_t>(ids[slot])];
    }
    EXPECT_EQ(values_of(state.segment_counts), counts);
    const std::vector<double> sums = values_of(state.segment_probability_sums);
    EXPECT_NEAR(sums[0] + sums[1] + sums[2] + sums[3], 2.0, 1e-5);
    EXPECT_NEAR(sums[4] + sums[5] + sums[6] + sums[7], 1.0, 1e-5);
    EXPECT_EQ(values_of(state.log_sum_exp)[2], 0.0);

    const OwnedTensor d_weights = random_tensor({6, 2}, GetParam(), "d_weights");
    const OwnedTensor balance = random_tensor({2, 4}, GetParam(), "balance");
    router_backward(shape, *logits, state, *d_weights, *balance, 0.1, *logits, stream);
    const std::vector<double> d_logits = values_of(*logits);
    for (std::size_t i = 0; i < d_logits.size(); ++i)
      EXPECT_EQ(d_logits[i] == 0.0, i / 4 == 2 || i / 4 >= 4) << i;
  }
}

TEST(DocumentSlots, OfNoExpertAreDroppedAndTakeNoCapacity) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
  Stream stream(Device::cpu());
  const OwnedTensor ids = tensor_of({4, 2}, DType::i32, {-1, -1, 1, 0, 1, 2, -1, -1});
  const OwnedTensor weights =
      tensor_of({4, 2}, DType::f32, {9.0, 9.0, 0.1, 0.2, 0.3, 0.4, 9.0, 9.0});
  const auto slot_rows = [&](const ExpertCapacity& capacity) {
    const OwnedTensor counts = poisoned_tensor({3}, DType::i64),
                      row_slots = poisoned_tensor({8}, DType::i32),
                      rows = poisoned_tensor({4, 2}, DType::i32);
    dispatch_plan(*ids, *weights, capacity, *counts, *row_slots, *rows, scratch, stream);
    return values_of(*rows);
  };
  using Rows = std::vector<double>;
  EXPECT_EQ(slot_rows({}), (Rows{-1, -1, 1, 0, 2, 3, -1, -1}));
  EXPECT_EQ(slot_rows({1, 4, DropPolicy::position}), (Rows{-1, -1, 1, 0, -1, 2, -1, -1}));
  EXPECT_EQ(slot_rows({1, 4, DropPolicy::probability}), (Rows{-1, -1, -1, 0, 1, 2, -1, -1}));
}

TEST(DocumentLengths, AreThoseOfTheShortestAndTheLongest) {
  const auto of = [](const std::vector<std::int32_t>& starts, std::int64_t rows) {
    const DocumentLengths lengths = lengths_of_documents(starts, rows);
    return std::vector<std::int64_t>{lengths.shortest, lengths.longest};
  };
  using Bounds = std::vector<std::int64_t>;
  EXPECT_EQ(of({0, 0, 2, 2, 2, 5}, 6), (Bounds{1, 3}));
  EXPECT_EQ(of({0, 0, 2, 2}, 4), (Bounds{2, 2}));
  EXPECT_EQ(of({0, 0, 0, 0, 0, 0}, 3), (Bounds{3, 3})) << "sequences end documents";
  EXPECT_EQ(of({0, 0, 0, no_document, no_document, no_document}, 6), (Bounds{1, 3}));
  EXPECT_EQ(of({}, 4), (Bounds{1, std::numeric_limits<std::int64_t>::max()}));
}

TEST(DocumentErrors, NameWhatDoesNotFit) {
  const OwnedTensor starts = starts_of(documents);
  Attention attention(sequences * length, DType::f32);
  const auto message = [&](const AttentionShape& shape) {
    return message_of<InvalidArgument>([&] { attention.run(shape, 0); });
  };
  EXPECT_EQ(message({1, length, length, 4, 2, 16, *starts}),
            "attention_forward: document_starts has shape [1400], expected [700]");
  EXPECT_EQ(message({1, length, length + 1, 4, 2, 16, starts->rows(0, length)}),
            "attention_forward: key_length is 701, expected query_length = 700 where there are "
            "documents");
  starts->data<std::int32_t>()[1399] = 0;
  EXPECT_EQ(message({sequences, length, length, 4, 2, 16, *starts}),
            "attention: document_starts of sequence 1 has 1073741824 at position 662, expected the "
            "position of its document's first row, or 1073741824 from there to the end");
  Stream stream(Device::cpu());
  EXPECT_EQ(message_of<InvalidArgument>([&] {
              rotary_forward(
                  {.sequence_length = length, .first_position = 3, .document_starts = *starts},
                  *attention.q, stream);
            }),
            "rotary_forward: first_position is 3, expected 0 where there are documents");
}

}  // namespace
}  // namespace polymoe

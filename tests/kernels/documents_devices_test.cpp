// SPDX-License-Identifier: Apache-2.0
// Documents in the sequences of every device's kernels against the CPU's in f64.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/dispatch_plan/dispatch_plan.h"
#include "kernels/documents.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/router/router.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::norm_tolerance;
using test::poisoned_tensor;
using test::random_tensor;
using test::relative_error;
using test::tensor_of;
using test::values_of;

constexpr std::int64_t sequences = 4;

/// By sequence: documents of ever longer lengths, of one, of a few rows with padding behind, and of
/// about three tenths of the length with a short one between.
OwnedTensor starts_of(std::int64_t length) {
  std::vector<double> starts;
  for (std::int64_t first = 0, next = 1; first < length; first = next, next = 2 * next + 1)
    starts.insert(starts.end(), static_cast<std::size_t>(std::min(next, length) - first),
                  static_cast<double>(first));
  starts.insert(starts.end(), static_cast<std::size_t>(length), 0.0);
  for (std::int64_t i = 0; i < length; ++i)
    starts.push_back(i < length / 3 ? static_cast<double>(i / 5 * 5) : double{no_document});
  for (std::int64_t first = 0, document = 0; first < length; ++document) {
    const std::int64_t rows = document == 1 ? 3 : std::max<std::int64_t>(1, 3 * length / 10);
    const std::int64_t next = std::min(first + rows, length);
    starts.insert(starts.end(), static_cast<std::size_t>(next - first), static_cast<double>(first));
    first = next;
  }
  return tensor_of({sequences * length}, DType::i32, starts);
}

class DocumentsDevices : public test::OnDevice {
 protected:
  struct Inputs {
    OwnedTensor q, k, v, d_out;
  };
  struct Results {
    OwnedTensor out, log_sum_exp, d_q, d_k, d_v;
  };
  static void run(const AttentionShape& s, const Inputs& in, const Results& to, Arena& scratch,
                  Stream& stream) {
    attention_forward(s, *in.q, *in.k, *in.v, *to.out, *to.log_sum_exp, scratch, stream);
    attention_backward(s, *in.d_out, *in.q, *in.k, *in.v, *to.out, *to.log_sum_exp, *to.d_q,
                       *to.d_k, *to.d_v, scratch, stream);
  }
  void compare_attention(std::int64_t length, std::int64_t heads, std::int64_t kv_heads,
                         std::int64_t head_dim) {
    compare_attention(starts_of(length), heads, kv_heads, head_dim, {});
  }
  void compare_attention(const OwnedTensor& starts, std::int64_t heads, std::int64_t kv_heads,
                         std::int64_t head_dim, DocumentLengths lengths);

  /// Both may hold zeros only.
  static double error(const Tensor& actual, const Tensor& expected) {
    return values_of(actual) == values_of(expected) ? 0.0 : relative_error(actual, expected);
  }

  Stream cpu_{Device::cpu()};
  Arena cpu_arena_{{.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true}};
};
INSTANTIATE_TEST_SUITE_P(All, DocumentsDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

void DocumentsDevices::compare_attention(const OwnedTensor& starts, std::int64_t heads,
                                         std::int64_t kv_heads, std::int64_t head_dim,
                                         DocumentLengths lengths) {
  const std::int64_t length = starts->elements() / sequences;
  SCOPED_TRACE(std::to_string(length) + " rows, head_dim " + std::to_string(head_dim));
  const Shape queries{sequences * length, heads, head_dim}, keys{queries[0], kv_heads, head_dim};
  const Shape rows{sequences, heads, length};
  const OwnedTensor on_starts = moved(*starts);
  const Inputs host{random_tensor(queries, dtype(), "q"), random_tensor(keys, dtype(), "k"),
                    random_tensor(keys, dtype(), "v"), random_tensor(queries, dtype(), "d_out")};
  const DType f64 = DType::f64;
  const Results expected{poisoned_tensor(queries, f64), poisoned_tensor(rows, f64),
                         poisoned_tensor(queries, f64), poisoned_tensor(keys, f64),
                         poisoned_tensor(keys, f64)};
  AttentionShape shape{sequences, length, length, heads, kv_heads, head_dim, *starts};
  run(shape,
      {converted(*host.q, f64), converted(*host.k, f64), converted(*host.v, f64),
       converted(*host.d_out, f64)},
      expected, cpu_arena_, cpu_);
  const Results actual{poisoned(queries, dtype()), poisoned(rows, wide_dtype()),
                       poisoned(queries, dtype()), poisoned(keys, dtype()),
                       poisoned(keys, dtype())};
  shape.document_starts = *on_starts;
  shape.document_lengths = lengths;
  run(shape, {moved(*host.q), moved(*host.k), moved(*host.v), moved(*host.d_out)}, actual, arena(),
      stream());
  const double gradients = dtype() == DType::bf16 ? 2e-2 : norm_tolerance(dtype());
  EXPECT_LE(error(*fetched(*actual.out), *expected.out), norm_tolerance(dtype()));
  EXPECT_LE(error(*fetched(*actual.log_sum_exp), *expected.log_sum_exp), 1e-5);
  EXPECT_LE(error(*fetched(*actual.d_v), *expected.d_v), gradients);
  if (length > 1) {  // the score of a lone key has no gradient
    EXPECT_LE(error(*fetched(*actual.d_q), *expected.d_q), gradients);
    EXPECT_LE(error(*fetched(*actual.d_k), *expected.d_k), gradients);
  }
  const std::vector<double> values = values_of(*starts);
  for (const OwnedTensor* tensor : {&actual.out, &actual.d_q, &actual.d_k, &actual.d_v}) {
    const OwnedTensor there = fetched(**tensor);
    for (std::int64_t row = 0; row < there->dim(0); ++row) {
      if (values[static_cast<std::size_t>(row)] != no_document) continue;
      for (const double value : values_of(there->rows(row, row + 1))) ASSERT_EQ(value, 0.0);
    }
  }
}

TEST_P(DocumentsDevices, AttentionKeepsToThem) {
  for (const std::int64_t length : {1, 2, 63, 64, 65, 200, 333})
    compare_attention(length, 2, 2, 64);
  // From 256 rows on cuDNN takes the long ones of bf16.
  for (const std::int64_t length : {255, 256, 1000}) compare_attention(length, 2, 1, 64);
  compare_attention(257, 4, 2, 128);
  compare_attention(640, 4, 4, 128);
  compare_attention(257, 3, 3, 96);
  compare_attention(130, 4, 1, 8);
  compare_attention(130, 6, 2, 20);
  compare_attention(130, 2, 1, 256);
}

/// Nothing may be left out that is there.
TEST_P(DocumentsDevices, AttentionKnowsWhichLengthsThereAre) {
  const std::int64_t length = 512;
  const std::vector<std::vector<std::int64_t>> cases = {
      {512},           {200, 312},     {64, 64, 64, 64, 64, 64, 64, 64},
      {170, 170, 172}, {20, 170, 322}, {20, 300, 5}};  // behind the last ones stands padding
  for (const std::vector<std::int64_t>& documents : cases) {
    std::vector<double> starts;
    std::vector<std::int32_t> on_host;
    for (std::int64_t s = 0; s < sequences; ++s) {
      std::int64_t begin = 0;
      for (const std::int64_t document : documents) {
        on_host.insert(on_host.end(), static_cast<std::size_t>(document),
                       static_cast<std::int32_t>(begin));
        begin += document;
      }
      on_host.insert(on_host.end(), static_cast<std::size_t>(length - begin), no_document);
    }
    for (const std::int32_t start : on_host) starts.push_back(start);
    const DocumentLengths lengths = lengths_of_documents(on_host, length);
    EXPECT_EQ(lengths.longest, *std::ranges::max_element(documents));
    compare_attention(tensor_of({sequences * length}, DType::i32, starts), 2, 2, 64, lengths);
  }
}

TEST_P(DocumentsDevices, PositionsBeginAnewWithThem) {
  for (const Shape& heads : {Shape{1, 16, 128}, Shape{1, 3, 10}}) {
    const std::int64_t length = 100, rows = sequences * length, width = heads[1] * heads[2];
    SCOPED_TRACE(to_string(heads));
    const Shape shape{rows, heads[1], heads[2]};
    const OwnedTensor starts = starts_of(length), on_starts = moved(*starts);
    RotaryPositions positions{.sequence_length = length, .document_starts = *starts};
    RotaryPositions on_positions{.sequence_length = length, .document_starts = *on_starts};
    const OwnedTensor x = random_tensor(shape, dtype(), "x"),
                      d_y = random_tensor(shape, dtype(), "d_y"),
                      w = random_tensor({width}, dtype(), "w", {1.0, 0.2}),
                      d_w = random_tensor({width}, wide_dtype(), "d_w");
    const OwnedTensor x64 = converted(*x, DType::f64), w64 = converted(*w, DType::f64),
                      d_y64 = converted(*d_y, DType::f64), d_w64 = converted(*d_w, DType::f64),
                      y64 = poisoned_tensor(shape, DType::f64),
                      d_x64 = poisoned_tensor(shape, DType::f64),
                      inv_rms64 = poisoned_tensor({rows}, DType::f64);
    norm_rotary_forward(positions, *x64, *w64, 1e-5, *y64, *inv_rms64, cpu_);
    norm_rotary_backward(positions, *d_y64, *x64, *inv_rms64, *w64, *d_x64, *d_w64, cpu_arena_,
                         cpu_);
    rotary_forward(positions, *x64, cpu_);
    rotary_backward(positions, *d_y64, cpu_);

    const OwnedTensor on_x = moved(*x), on_d_y = moved(*d_y), on_w = moved(*w),
                      on_d_w = moved(*d_w), y = poisoned(shape, dtype()),
                      d_x = poisoned(shape, dtype()), inv_rms = poisoned({rows}, wide_dtype());
    norm_rotary_forward(on_positions, *on_x, *on_w, 1e-5, *y, *inv_rms, stream());
    norm_rotary_backward(on_positions, *on_d_y, *on_x, *inv_rms, *on_w, *d_x, *on_d_w, arena(),
                         stream());
    rotary_forward(on_positions, *on_x, stream());
    rotary_backward(on_positions, *on_d_y, stream());
    EXPECT_LE(error(*fetched(*y), *y64), norm_tolerance(dtype()));
    EXPECT_LE(error(*fetched(*d_x), *d_x64), norm_tolerance(dtype()));
    EXPECT_LE(error(*fetched(*on_d_w), *d_w64), 1e-5);
    EXPECT_LE(error(*fetched(*on_x), *x64), norm_tolerance(dtype()));
    EXPECT_LE(error(*fetched(*on_d_y), *d_y64), norm_tolerance(dtype()));
  }
}

TEST_P(DocumentsDevices, RowsWithoutOneGoToNoExpertAndIntoNoStatistic) {
  const std::int64_t length = 150;
  for (const RouterScores scores : {RouterScores::softmax, RouterScores::sigmoid}) {
    const OwnedTensor starts = starts_of(length), on_starts = moved(*starts);
    RouterShape shape{.tokens = sequences * length,
                      .experts = 12,
                      .top_k = 3,
                      .segments = sequences,
                      .segment_tokens = length,
                      .rule = {.scores = scores, .normalize = true},
                      .document_starts = *starts};
    const Shape per_expert{shape.tokens, shape.experts};
    const OwnedTensor logits = random_tensor(per_expert, DType::f32, "logits", {0.0, 2.0}),
                      d_weights = random_tensor({shape.tokens, 3}, DType::f32, "d_weights"),
                      balance = random_tensor({sequences, 12}, DType::f32, "balance");
    const Arena::Scope scope(arena()), cpu_scope(cpu_arena_);
    RouterState expected = allocate_router_state(shape, DType::f64, cpu_arena_);
    const OwnedTensor logits64 = converted(*logits, DType::f64);
    router_forward(shape, *logits64, {}, expected, cpu_arena_, cpu_);
    router_backward(shape, *logits64, expected, *converted(*d_weights, DType::f64),
                    *converted(*balance, DType::f64), 0.1, *logits64, cpu_);
    shape.document_starts = *on_starts;
    RouterState actual = allocate_router_state(shape, DType::f32, arena());
    const OwnedTensor on_logits = moved(*logits);
    router_forward(shape, *on_logits, {}, actual, arena(), stream());
    router_backward(shape, *on_logits, actual, *moved(*d_weights), *moved(*balance), 0.1,
                    *on_logits, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(actual.expert_ids), expected.expert_ids));
    EXPECT_TRUE(test::bitwise_equal(*fetched(actual.segment_counts), expected.segment_counts));
    EXPECT_LE(error(*fetched(actual.segment_probability_sums), expected.segment_probability_sums),
              1e-5);
    EXPECT_LE(error(*fetched(actual.weights), expected.weights), 1e-5);
    EXPECT_LE(error(*fetched(actual.log_sum_exp), expected.log_sum_exp), 1e-5);
    EXPECT_LE(error(*fetched(*on_logits), *logits64), 1e-5);

    for (const ExpertCapacity& capacity :
         {ExpertCapacity{}, ExpertCapacity{7, length, DropPolicy::position},
          ExpertCapacity{7, length, DropPolicy::probability}}) {
      const OwnedTensor counts = poisoned_tensor({12}, DType::i64),
                        row_slots = poisoned_tensor({shape.tokens * 3}, DType::i32),
                        slot_rows = poisoned_tensor({shape.tokens, 3}, DType::i32);
      const OwnedTensor ids = fetched(actual.expert_ids),
                        weights = converted(*fetched(actual.weights), DType::f32);
      dispatch_plan(*ids, *weights, capacity, *counts, *row_slots, *slot_rows, cpu_arena_, cpu_);
      const OwnedTensor on_counts = poisoned({12}, DType::i64),
                        on_row_slots = poisoned(row_slots->shape(), DType::i32),
                        on_slot_rows = poisoned(slot_rows->shape(), DType::i32);
      dispatch_plan(actual.expert_ids, actual.weights, capacity, *on_counts, *on_row_slots,
                    *on_slot_rows, arena(), stream());
      EXPECT_TRUE(test::bitwise_equal(*fetched(*on_counts), *counts));
      EXPECT_TRUE(test::bitwise_equal(*fetched(*on_row_slots), *row_slots));
      EXPECT_TRUE(test::bitwise_equal(*fetched(*on_slot_rows), *slot_rows));
    }
  }
}

}  // namespace
}  // namespace polymoe

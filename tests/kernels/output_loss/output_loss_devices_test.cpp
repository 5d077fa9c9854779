// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/output_loss/output_loss.h"
#include "runtime/random.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::converted;
using test::norm_tolerance;
using test::random_tensor;
using test::relative_error;
using test::values_of;

constexpr std::size_t gibibyte = std::size_t{1} << 30;

struct Size {
  std::int64_t rows, hidden, vocab;
};

// Every seventh row has no target.
OwnedTensor random_targets(const Size& size) {
  const RandomStream random(5, "targets");
  OwnedTensor targets({size.rows}, DType::i32, Device::cpu());
  for (std::int64_t row = 0; row < size.rows; ++row) {
    const double uniform = random.uniform(static_cast<std::uint64_t>(row));
    targets->data<std::int32_t>()[row] =
        row % 7 == 3 ? -1 : static_cast<std::int32_t>(uniform * static_cast<double>(size.vocab));
  }
  return targets;
}

struct Results {
  OwnedTensor token_loss, d_x, d_weight;
};

class OutputLossDevices : public test::OnDevice {
 protected:
  struct Problem {
    OwnedTensor x, weight, targets, d_weight;
  };
  Problem draw(const Size& size, double deviation = 1.0) {
    return {random_tensor({size.rows, size.hidden}, dtype(), "x", {0.0, deviation}),
            random_tensor({size.vocab, size.hidden}, dtype(), "weight"), random_targets(size),
            random_tensor({size.vocab, size.hidden}, wide_dtype(), "d_weight")};
  }
  static Results in_double(const Problem& problem, double scale) {
    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = gibibyte, .poison = true});
    const OwnedTensor x = converted(*problem.x, DType::f64),
                      weight = converted(*problem.weight, DType::f64);
    Results r{test::poisoned_tensor({problem.x->dim(0)}, DType::f64),
              test::poisoned_tensor(x->shape(), DType::f64),
              converted(*problem.d_weight, DType::f64)};
    output_loss_forward_backward(*x, *weight, *problem.targets, scale, *r.token_loss, *r.d_x,
                                 *r.d_weight, scratch, cpu);
    return r;
  }
  Results on_device(const Problem& problem, double scale, Arena& scratch) {
    const OwnedTensor x = moved(*problem.x), weight = moved(*problem.weight),
                      targets = moved(*problem.targets), d_x = poisoned(x->shape(), dtype()),
                      d_weight = moved(*problem.d_weight),
                      token_loss = poisoned({x->dim(0)}, wide_dtype());
    output_loss_forward_backward(*x, *weight, *targets, scale, *token_loss, *d_x, *d_weight,
                                 scratch, stream());
    Results r{fetched(*token_loss), fetched(*d_x), fetched(*d_weight)};
    // Without gradients the same losses.
    const OwnedTensor loss_only = poisoned({x->dim(0)}, wide_dtype());
    output_loss_forward(*x, *weight, *targets, *loss_only, scratch, stream());
    EXPECT_TRUE(test::all_close(*fetched(*loss_only), *r.token_loss, {1e-6, 1e-6}));
    return r;
  }
  void compare(const Size& size, double deviation) {
    SCOPED_TRACE(std::to_string(size.rows) + " x " + std::to_string(size.hidden) + " x " +
                 std::to_string(size.vocab));
    const Problem problem = draw(size, deviation);
    const Results expected = in_double(problem, 0.125);
    const Results found = on_device(problem, 0.125, arena());
    EXPECT_LE(relative_error(*found.token_loss, *expected.token_loss), 1e-5);
    // A logit's absolute rounding error becomes its probability's relative one.
    const double tolerance = std::max(norm_tolerance(dtype()), deviation * 1e-5);
    EXPECT_LE(relative_error(*found.d_x, *expected.d_x), tolerance);
    EXPECT_LE(relative_error(*found.d_weight, *expected.d_weight), tolerance);
  }
};
INSTANTIATE_TEST_SUITE_P(All, OutputLossDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// Vocabularies of a few threads' units and of many, not made of fours, and beyond what a block
// keeps in shared memory.
TEST_P(OutputLossDevices, AgreesWithDouble) {
  compare({70, 24, 1000}, 1.0);
  compare({70, 24, 1001}, 1.0);
  compare({9, 8, 2}, 1.0);
  compare({33, 16, 37}, 1.0);
  compare({11, 64, 32000}, 1.0);
  compare({9, 32, 50304}, 1.0);
  compare({5, 16, 50303}, 1.0);
  compare({4, 16, 60000}, 1.0);
  compare({4, 16, 60001}, 1.0);
}

TEST_P(OutputLossDevices, LargeLogitsDoNotOverflow) {
  compare({40, 16, 333}, 100.0);
  compare({40, 16, 3332}, 100.0);
}

// With one token to choose from it is certain.
TEST_P(OutputLossDevices, VocabularyOfOne) {
  const Problem problem = draw({20, 8, 1});
  const Results found = on_device(problem, 1.0, arena());
  EXPECT_EQ(values_of(*found.token_loss), std::vector<double>(20, 0.0));
  EXPECT_EQ(values_of(*found.d_x), std::vector<double>(160, 0.0));
  EXPECT_TRUE(bitwise_equal(*found.d_weight, *converted(*problem.d_weight, DType::f64)));
}

TEST_P(OutputLossDevices, RowsWithoutTargetsCountNothing) {
  Problem problem = draw({30, 16, 1000});
  std::fill_n(problem.targets->data<std::int32_t>(), 30, -1);
  const Results found = on_device(problem, 1.0, arena());
  EXPECT_EQ(values_of(*found.token_loss), std::vector<double>(30, 0.0));
  EXPECT_EQ(values_of(*found.d_x), std::vector<double>(480, 0.0));
  EXPECT_TRUE(bitwise_equal(*found.d_weight, *converted(*problem.d_weight, DType::f64)));
}

// One chunk after the other is what two calls do.
TEST_P(OutputLossDevices, ChunksDoNotShow) {
  const bool on_cpu = device().type == DeviceType::cpu;
  const Size size = on_cpu ? Size{700, 8, 20004} : Size{8900, 8, 50304};
  const std::int64_t cut = 301;
  const std::size_t logits = static_cast<std::size_t>(size.rows * size.vocab) * 4;
  Arena scratch({.device = device(), .capacity = 3 * gibibyte / 2});
  const Problem problem = draw(size);
  const OwnedTensor x = moved(*problem.x), weight = moved(*problem.weight),
                    targets = moved(*problem.targets);
  Results parts, whole;
  for (Results* r : {&parts, &whole}) {
    r->token_loss = poisoned({size.rows}, wide_dtype());
    r->d_x = poisoned(x->shape(), dtype());
    r->d_weight = moved(*problem.d_weight);
    const std::vector<std::int64_t> cuts = r == &parts
                                               ? std::vector<std::int64_t>{0, cut, size.rows}
                                               : std::vector<std::int64_t>{0, size.rows};
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const auto rows = [&](const OwnedTensor& t) { return t->rows(cuts[i], cuts[i + 1]); };
      output_loss_forward_backward(rows(x), *weight, rows(targets), 0.5, rows(r->token_loss),
                                   rows(r->d_x), *r->d_weight, scratch, stream());
    }
  }
  EXPECT_LT(scratch.high_water(), logits) << "one chunk holds all rows";
  EXPECT_LE(relative_error(*fetched(*whole.token_loss), *fetched(*parts.token_loss)), 1e-6);
  EXPECT_LE(relative_error(*fetched(*whole.d_x), *fetched(*parts.d_x)),
            dtype() == DType::bf16 ? 4e-3 : 1e-5);
  EXPECT_LE(relative_error(*fetched(*whole.d_weight), *fetched(*parts.d_weight)),
            dtype() == DType::bf16 ? 1e-4 : 1e-5);
}

TEST_P(OutputLossDevices, GradientMayReplaceTheInputAndBitsRepeat) {
  const Size size{600, 16, 9000};
  const Problem problem = draw(size);
  const OwnedTensor weight = moved(*problem.weight), targets = moved(*problem.targets);
  Results first, again;
  // The first call chooses algorithms of products; what it computes must not tell.
  for (Results* r : {&first, &again}) {
    const OwnedTensor x = moved(*problem.x), d_weight = moved(*problem.d_weight),
                      token_loss = poisoned({size.rows}, wide_dtype());
    const OwnedTensor apart = poisoned(x->shape(), dtype());
    const Tensor d_x = r == &first ? *apart : *x;
    output_loss_forward_backward(*x, *weight, *targets, 0.25, *token_loss, d_x, *d_weight, arena(),
                                 stream());
    *r = {fetched(*token_loss), fetched(d_x), fetched(*d_weight)};
  }
  EXPECT_TRUE(bitwise_equal(*again.token_loss, *first.token_loss));
  EXPECT_TRUE(bitwise_equal(*again.d_x, *first.d_x));
  EXPECT_TRUE(bitwise_equal(*again.d_weight, *first.d_weight));
}

TEST_P(OutputLossDevices, ABadTargetIsRefusedOrItsLossIsNan) {
  Problem problem = draw({9, 16, 40});
  std::int32_t* targets = problem.targets->data<std::int32_t>();
  targets[2] = 40;
  targets[5] = -2;
  if (device().type == DeviceType::cpu) {
    EXPECT_EQ(test::message_of<InvalidArgument>([&] { on_device(problem, 1.0, arena()); }),
              "output_loss_forward_backward: target 40 at position 2 is not in [-1, 40)");
    return;
  }
  const OwnedTensor x = moved(*problem.x), weight = moved(*problem.weight),
                    on_targets = moved(*problem.targets), d_x = poisoned(x->shape(), dtype()),
                    d_weight = moved(*problem.d_weight), token_loss = poisoned({9}, wide_dtype());
  output_loss_forward_backward(*x, *weight, *on_targets, 1.0, *token_loss, *d_x, *d_weight, arena(),
                               stream());
  targets[2] = targets[5] = -1;
  const Results expected = in_double(problem, 1.0);
  std::vector<double> losses = values_of(*fetched(*token_loss));
  EXPECT_TRUE(std::isnan(losses[2]) && std::isnan(losses[5]));
  losses[2] = losses[5] = 0.0;
  EXPECT_TRUE(test::all_close(losses, values_of(*expected.token_loss), {1e-5, 1e-5}));
  EXPECT_LE(relative_error(*fetched(*d_x), *expected.d_x), norm_tolerance(dtype()));
  EXPECT_LE(relative_error(*fetched(*d_weight), *expected.d_weight), norm_tolerance(dtype()));
}

TEST_P(OutputLossDevices, NanInARowStaysThere) {
  const Problem problem = draw({9, 16, 1000});
  const OwnedTensor x64 = converted(*problem.x, DType::f64);
  x64->data<double>()[5 * 16 + 7] = NAN;  // row 5 has a target
  const OwnedTensor x = moved(*x64, dtype()), weight = moved(*problem.weight),
                    targets = moved(*problem.targets), d_x = poisoned(x->shape(), dtype()),
                    d_weight = moved(*problem.d_weight), token_loss = poisoned({9}, wide_dtype());
  output_loss_forward_backward(*x, *weight, *targets, 1.0, *token_loss, *d_x, *d_weight, arena(),
                               stream());
  const std::vector<double> losses = values_of(*fetched(*token_loss)),
                            gradients = values_of(*fetched(*d_x));
  for (std::size_t row = 0; row < 9; ++row) {
    EXPECT_EQ(std::isnan(losses[row]), row == 5) << row;
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(gradients[row * 16 + i]), row == 5);
  }
}

TEST_P(OutputLossDevices, NoRows) {
  const Problem problem = draw({0, 16, 40});
  const Results found = on_device(problem, 1.0, arena());
  EXPECT_TRUE(bitwise_equal(*found.d_weight, *converted(*problem.d_weight, DType::f64)));
}

// What a GPU will take: whole tiles of rows, f32 logits and beside them bf16 gradients.
TEST(OutputLossOnMeta, PlansTheChunksOfAGpu) {
  constexpr Device meta = Device::meta(DeviceType::cuda);
  Stream stream(meta);
  struct Case {
    std::int64_t rows, vocab, chunk_rows;
  };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::size_t value_bytes = dtype == DType::bf16 ? 6 : 4;
    for (const Case& c : {Case{16384, 50304, dtype == DType::bf16 ? 4096 : 5632},
                          {100, 50304, 100},
                          {5000, 50304, dtype == DType::bf16 ? 2560 : 5000},
                          {16384, 1 << 20, 256}}) {
      Arena scratch({.device = meta});
      const OwnedTensor x({c.rows, 64}, dtype, meta), weight({c.vocab, 64}, dtype, meta),
          targets({c.rows}, DType::i32, meta), loss({c.rows}, DType::f32, meta),
          d_weight({c.vocab, 64}, DType::f32, meta);
      output_loss_forward_backward(*x, *weight, *targets, 1.0, *loss, *x, *d_weight, scratch,
                                   stream);
      EXPECT_EQ(scratch.mark(), 0u);
      EXPECT_EQ(scratch.high_water(),
                static_cast<std::size_t>(c.chunk_rows * c.vocab) * value_bytes);
    }
  }
}

}  // namespace
}  // namespace polymoe

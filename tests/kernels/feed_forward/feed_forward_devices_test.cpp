// SPDX-License-Identifier: Apache-2.0
// Every device's expert feed-forward against the CPU's in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/feed_forward/feed_forward.h"
#include "runtime/copy.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::random_tensor;

struct Outputs {
  OwnedTensor y, d_x, d_row_weights, d_up, d_down, d_a;
};

struct Sizes {
  std::int64_t hidden, ffn, sets;
};

class FeedForwardDevices : public test::OnDevice {
 protected:
  void expect_gradients(const Activation& activation, const Sizes& sizes,
                        const ExpertOffsets& offsets, bool weighted, DType gradient) {
    const auto [hidden, ffn, sets] = sizes;
    const std::int64_t experts = static_cast<std::int64_t>(offsets.size()) - 1;
    const std::int64_t rows = offsets.back();
    const std::int64_t wide = pre_activation_factor(activation.kind) * ffn;
    const auto drawn = [&](const Shape& shape, const char* name, double deviation, DType type,
                           double mean = 0.0) {
      return converted(*random_tensor(shape, DType::f64, name, {mean, deviation}), type);
    };
    // The coefficients' gradients are few sums over all elements: with means other than zero they
    // cancel less, and leave more than the rounding of bf16.
    const OwnedTensor x = drawn({rows, hidden}, "x", 1.0, dtype());
    const OwnedTensor d_y = drawn({rows, hidden}, "d_y", 1.0, dtype(), 0.5);
    const OwnedTensor up = drawn({experts, wide, hidden}, "up", 1.0 / std::sqrt(hidden), dtype());
    const OwnedTensor down =
        drawn({experts, hidden, ffn}, "down", 1.0 / std::sqrt(ffn), dtype(), 0.5 / std::sqrt(ffn));
    const OwnedTensor a = drawn({sets, coefficient_count(activation)}, "a", 1.0, wide_dtype());
    const OwnedTensor row_weights = drawn({rows}, "row_weights", 0.5, wide_dtype());
    // Gradients add to what is there.
    const OwnedTensor d_up = drawn(up->shape(), "d_up", 1.0, gradient);
    const OwnedTensor d_down = drawn(down->shape(), "d_down", 1.0, gradient);
    const OwnedTensor d_a = drawn(a->shape(), "d_a", 1.0, wide_dtype());

    Stream host_stream(Device::cpu());
    Arena host_arena({.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true});
    const auto run = [&](const auto& in, const auto& blank, Arena& memory, Stream& on) {
      const OwnedTensor device_x = in(*x), device_d_y = in(*d_y), device_up = in(*up);
      const OwnedTensor device_down = in(*down), device_a = in(*a), weights = in(*row_weights);
      Outputs out{blank(x->shape(), dtype()),
                  blank(x->shape(), dtype()),
                  blank(row_weights->shape(), wide_dtype()),
                  in(*d_up),
                  in(*d_down),
                  in(*d_a)};
      const OwnedTensor pre = blank({rows, wide}, dtype());
      const FeedForwardWeights parameters{*device_up, *device_down, *device_a};
      FeedForwardWeights gradients{*out.d_up, *out.d_down, *out.d_a};
      feed_forward_forward(activation, parameters, *device_x, offsets,
                           weighted ? *weights : Tensor{}, *pre, *out.y, memory, on);
      feed_forward_backward(activation, parameters, *device_d_y, *device_x, offsets,
                            weighted ? *weights : Tensor{}, *pre, *out.d_x,
                            weighted ? *out.d_row_weights : Tensor{}, gradients, memory, on);
      on.synchronize();
      return out;
    };
    const Outputs expected =
        run([](const Tensor& tensor) { return converted(tensor, DType::f64); },
            [](const Shape& shape, DType) { return test::poisoned_tensor(shape, DType::f64); },
            host_arena, host_stream);
    const Outputs actual = run(
        [&](const Tensor& tensor) { return moved(tensor); },
        [&](const Shape& shape, DType type) { return poisoned(shape, type); }, arena(), stream());
    // bf16 is rounded between the products too.
    const double rounding = dtype() == DType::bf16 ? 1.5e-2 : 1e-5;
    const auto expect_close = [&](const Tensor& out, const Tensor& reference, const char* name,
                                  double tolerance) {
      if (reference.elements() == 0) return;  // zero rows leave nothing to compare
      EXPECT_LE(test::relative_error(*fetched(out), reference), tolerance) << name;
    };
    expect_close(*actual.y, *expected.y, "y", rounding);
    expect_close(*actual.d_x, *expected.d_x, "d_x", rounding);
    expect_close(*actual.d_up, *expected.d_up, "d_up", rounding);
    expect_close(*actual.d_down, *expected.d_down, "d_down", rounding);
    expect_close(*actual.d_a, *expected.d_a, "d_a", 4.0 * rounding);
    if (weighted) {
      expect_close(*actual.d_row_weights, *expected.d_row_weights, "d_row_weights", rounding);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, FeedForwardDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(FeedForwardDevices, EveryActivationEqualsTheCpuInF64) {
  for (const ActivationKind kind : all_activations()) {
    for (const bool weighted : {true, false}) {
      SCOPED_TRACE(std::string(name_of(kind)) + (weighted ? " weighted" : ""));
      expect_gradients({kind, 3, 1e-6}, {96, 64, 4}, {0, 70, 70, 71, 200}, weighted, dtype());
    }
  }
}

TEST_P(FeedForwardDevices, EveryOrderAnyWidthAndOneSet) {
  for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::polyrelunorm,
                                    ActivationKind::polyprelu, ActivationKind::polynomial}) {
    for (const int order : {2, 4}) {
      SCOPED_TRACE(std::string(name_of(kind)) + " " + std::to_string(order));
      expect_gradients({kind, order, 1e-6}, {40, 37, 1}, {0, 65, 130, 150}, true, wide_dtype());
    }
  }
}

TEST_P(FeedForwardDevices, PreActivationsAloneHaveTheBitsOfTheForwardPass) {
  const Activation activation{.kind = ActivationKind::relu};
  for (const ExpertOffsets& offsets : {ExpertOffsets{0, 70, 70, 71, 300}, ExpertOffsets{0, 0, 0}}) {
    const auto experts = static_cast<std::int64_t>(offsets.size()) - 1;
    const std::int64_t rows = offsets.back(), hidden = 96, ffn = 64;
    const OwnedTensor x = moved(*random_tensor({rows, hidden}, dtype(), "x")),
                      up = moved(*random_tensor({experts, ffn, hidden}, dtype(), "up")),
                      down = moved(*random_tensor({experts, hidden, ffn}, dtype(), "down"));
    const OwnedTensor pre = poisoned({rows, ffn}, dtype()), alone = poisoned({rows, ffn}, dtype()),
                      y = poisoned({rows, hidden}, dtype());
    const FeedForwardWeights weights{*up, *down, {}};
    feed_forward_forward(activation, weights, *x, offsets, Tensor(), *pre, *y, arena(), stream());
    feed_forward_pre_activations(activation, weights, *x, offsets, *alone, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*alone), *fetched(*pre)));
  }
}

// Late rows are poisoned until they arrive; what leaves is copied as it leaves.
TEST_P(FeedForwardDevices, LateRowsAreReadWhenTheyArriveAndCompleteWhenTheyLeave) {
  const ExpertOffsets offsets{0, 300, 300, 302, 500};
  const std::vector<std::int64_t> early{170, 0, 2, 0};
  const std::int64_t rows = 500, hidden = 64, ffn = 32;
  const Activation activation{};
  const auto drawn = [&](const Shape& shape, const char* name) {
    return moved(*random_tensor(shape, DType::f64, name, {0.0, 0.3}), dtype());
  };
  const OwnedTensor x = drawn({rows, hidden}, "x"), d_y = drawn({rows, hidden}, "d_y");
  const std::int64_t wide = pre_activation_factor(activation.kind) * ffn;
  const OwnedTensor up = drawn({4, wide, hidden}, "up"), down = drawn({4, hidden, ffn}, "down");
  const OwnedTensor a =
      moved(*random_tensor({1, coefficient_count(activation)}, DType::f64, "a"), wide_dtype());
  const OwnedTensor weights = moved(*random_tensor({rows}, DType::f64, "weights"), wide_dtype());
  const FeedForwardWeights parameters{*up, *down, *a};
  const auto late_rows_of = [&](const Tensor& from, const Tensor& to) {
    for (std::size_t e = 0; e < early.size(); ++e) {
      const std::int64_t begin = offsets[e] + early[e], end = offsets[e + 1];
      copy(from.rows(begin, end), to.rows(begin, end), stream());
    }
  };
  const auto zeros = [&](const Shape& shape, DType type) {
    return moved(*random_tensor(shape, DType::f64, "zeros", {0.0, 0.0}), type);
  };
  struct Run {
    OwnedTensor y, d_x, d_weights, d_up, d_down, d_a;
    OwnedTensor left_y, left_d_x, left_d_weights;
  };
  const auto run = [&](bool split) {
    Run out{poisoned(x->shape(), dtype()),  poisoned(x->shape(), dtype()),
            poisoned({rows}, wide_dtype()), zeros(up->shape(), dtype()),
            zeros(down->shape(), dtype()),  zeros(a->shape(), wide_dtype()),
            poisoned(x->shape(), dtype()),  poisoned(x->shape(), dtype()),
            poisoned({rows}, wide_dtype())};
    const OwnedTensor pre = poisoned({rows, wide}, dtype());
    const OwnedTensor here_x = poisoned(x->shape(), dtype()),
                      here_d_y = poisoned(x->shape(), dtype());
    copy(*x, *here_x, stream());
    copy(*d_y, *here_d_y, stream());
    int arrived = 0, left = 0;
    const OwnedTensor poison = poisoned(x->shape(), dtype());
    if (split) {
      late_rows_of(*poison, *here_x);
      late_rows_of(*poison, *here_d_y);
    }
    const LateRows forward{.early = early,
                           .arrive = [&] { late_rows_of(*x, *here_x), ++arrived; },
                           .leave = [&] { late_rows_of(*out.y, *out.left_y), ++left; }};
    const LateRows backward{.early = early,
                            .arrive = [&] { late_rows_of(*d_y, *here_d_y), ++arrived; },
                            .leave =
                                [&] {
                                  late_rows_of(*out.d_x, *out.left_d_x);
                                  late_rows_of(*out.d_weights, *out.left_d_weights);
                                  ++left;
                                }};
    FeedForwardWeights gradients{*out.d_up, *out.d_down, *out.d_a};
    feed_forward_forward(activation, parameters, *here_x, offsets, *weights, *pre, *out.y, arena(),
                         stream(), split ? &forward : nullptr);
    feed_forward_backward(activation, parameters, *here_d_y, *here_x, offsets, *weights, *pre,
                          *out.d_x, *out.d_weights, gradients, arena(), stream(),
                          split ? &backward : nullptr);
    EXPECT_EQ(arrived, split ? 2 : 0);
    EXPECT_EQ(left, split ? 2 : 0);
    return out;
  };
  const Run whole = run(false), split = run(true);
  // Fewer rows in a product may be summed in another order.
  const double rounding = dtype() == DType::bf16 ? 1.5e-2 : 1e-5;
  const auto expect_near = [&](const OwnedTensor& actual, const OwnedTensor& expected) {
    EXPECT_LE(test::relative_error(*fetched(*actual), *fetched(*expected)), rounding);
  };
  expect_near(split.y, whole.y);
  expect_near(split.d_x, whole.d_x);
  expect_near(split.d_weights, whole.d_weights);
  expect_near(split.d_up, whole.d_up);
  expect_near(split.d_down, whole.d_down);
  expect_near(split.d_a, whole.d_a);
  const auto expect_left = [&](const OwnedTensor& left, const OwnedTensor& final) {
    for (std::size_t e = 0; e < early.size(); ++e) {
      const std::int64_t begin = offsets[e] + early[e], end = offsets[e + 1];
      EXPECT_TRUE(
          test::bitwise_equal(*fetched(left->rows(begin, end)), *fetched(final->rows(begin, end))));
    }
  };
  expect_left(split.left_y, split.y);
  expect_left(split.left_d_x, split.d_x);
  expect_left(split.left_d_weights, split.d_weights);
}

TEST_P(FeedForwardDevices, NoRowsLeaveTheGradientsAsTheyAre) {
  expect_gradients({ActivationKind::polynorm, 3, 1e-6}, {16, 8, 3}, {0, 0, 0, 0}, true, dtype());
}

}  // namespace
}  // namespace polymoe

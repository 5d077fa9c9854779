// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::poisoned_tensor;
using test::random_tensor;
using test::values_of;

struct Sizes {
  std::int64_t hidden, ffn;
};

// Arguments of one call: inputs drawn, outputs NaN, gradients from zero.
struct Call {
  Call(const Activation& kind, DType type, const Sizes& sizes, const ExpertOffsets& rows_of,
       std::int64_t sets)
      : activation(kind), dtype(type), offsets(rows_of) {
    const auto [hidden, ffn] = sizes;
    const std::int64_t experts = static_cast<std::int64_t>(offsets.size()) - 1;
    const std::int64_t rows = offsets.back(), wide = pre_activation_factor(kind.kind) * ffn;
    x = random_tensor({rows, hidden}, dtype, "x");
    d_y = random_tensor({rows, hidden}, dtype, "d_y");
    row_weights = random_tensor({rows}, dtype, "row_weights", {0.5, 0.2});
    up = random_tensor({experts, wide, hidden}, dtype, "up", {0.0, 1.0 / std::sqrt(hidden)});
    down = random_tensor({experts, hidden, ffn}, dtype, "down", {0.0, 1.0 / std::sqrt(ffn)});
    a = random_tensor({sets, coefficient_count(kind)}, dtype, "a");
    clear();
  }

  void clear() {
    y = poisoned_tensor(d_y->shape(), dtype);
    d_x = poisoned_tensor(x->shape(), dtype);
    pre = poisoned_tensor({x->dim(0), up->dim(1)}, dtype);
    d_row_weights = poisoned_tensor(row_weights->shape(), dtype);
    d_up = OwnedTensor(up->shape(), dtype, Device::cpu());
    d_down = OwnedTensor(down->shape(), dtype, Device::cpu());
    d_a = OwnedTensor(a->shape(), dtype, Device::cpu());
  }

  FeedForwardWeights weights() const { return {*up, *down, *a}; }
  void forward() {
    feed_forward_forward(activation, weights(), *x, offsets, weighted ? *row_weights : Tensor{},
                         *pre, *y, arena, stream);
  }
  void backward() {
    FeedForwardWeights gradients{*d_up, *d_down, *d_a};
    feed_forward_backward(activation, weights(), *d_y, *x, offsets,
                          weighted ? *row_weights : Tensor{}, *pre, *d_x,
                          weighted ? *d_row_weights : Tensor{}, gradients, arena, stream);
  }

  Activation activation;
  DType dtype;
  ExpertOffsets offsets;
  bool weighted = true;
  Stream stream{Device::cpu()};
  Arena arena{{.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true}};
  OwnedTensor x, d_y, row_weights, up, down, a;
  OwnedTensor pre, y, d_x, d_row_weights, d_up, d_down, d_a;
};

struct Case {
  const char* name;
  Activation activation;
  bool per_expert;
};
const Case cases[] = {
    {"polynorm.3", {ActivationKind::polynorm, 3, 1e-6}, true},
    {"polynorm.2", {ActivationKind::polynorm, 2, 1e-6}, false},
    {"swiglu.3", {ActivationKind::swiglu, 3, 1e-6}, false},
    {"polyprelu.4", {ActivationKind::polyprelu, 4, 1e-6}, true},
    {"gelu.3", {ActivationKind::gelu, 3, 1e-6}, false},
};

TEST(FeedForward, EqualsPyTorch) {
  const test::Fixture fixture("feed_forward.txt");
  for (const Case& example : cases) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const std::string name = example.name;
      SCOPED_TRACE(name + " " + name_of(dtype));
      Call call(example.activation, dtype, {9, 7}, {0, 4, 4, 5, 11}, example.per_expert ? 4 : 1);
      const auto input = [&](const char* key) { return fixture.tensor(name + "." + key, dtype); };
      call.x = input("x");
      call.d_y = input("d_y");
      call.up = input("up");
      call.down = input("down");
      call.row_weights = input("row_weights");
      const bool learned = coefficient_count(example.activation) > 0;
      if (learned) call.a = input("a");
      call.forward();
      call.backward();
      const double epsilon = dtype == DType::f64 ? 1e-13 : 1e-5;
      const auto expect = [&](const Tensor& actual, const char* key) {
        const OwnedTensor expected = input(key);
        // Relative to the tensor's size: sums of products cancel.
        double square = 0.0;
        for (const double value : values_of(*expected)) square += value * value;
        const double size = std::sqrt(square / static_cast<double>(expected->elements()));
        EXPECT_TRUE(test::all_close(actual, *expected, {epsilon, epsilon * size})) << key;
      };
      expect(*call.y, "y");
      expect(*call.d_x, "d_x");
      expect(*call.d_row_weights, "d_row_weights");
      expect(*call.d_up, "d_up");
      expect(*call.d_down, "d_down");
      if (learned) expect(*call.d_a, "d_a");
    }
  }
}

TEST(FeedForward, GradientsMatchDifferencesForEveryActivation) {
  for (const ActivationKind kind : all_activations()) {
    for (const bool weighted : {true, false}) {
      SCOPED_TRACE(name_of(kind));
      Call call({kind, 3, 1e-6}, DType::f64, {6, 5}, {0, 3, 3, 7}, 3);
      call.weighted = weighted;
      call.forward();
      // Differences mean nothing where a step crosses a kink.
      for (const double value : values_of(*call.pre)) ASSERT_GT(std::abs(value), 1e-3);
      call.backward();
      const auto loss = [&] {
        call.forward();
        return test::inner_product(*call.d_y, *call.y);
      };
      const test::GradientCheck check{.step = 1e-4, .tolerance = 1e-7, .samples = 60};
      EXPECT_TRUE(test::gradient_matches("x", *call.x, *call.d_x, loss, check));
      EXPECT_TRUE(test::gradient_matches("up", *call.up, *call.d_up, loss, check));
      EXPECT_TRUE(test::gradient_matches("down", *call.down, *call.d_down, loss, check));
      EXPECT_TRUE(test::gradient_matches("a", *call.a, *call.d_a, loss, check));
      if (weighted) {
        EXPECT_TRUE(test::gradient_matches("row_weights", *call.row_weights, *call.d_row_weights,
                                           loss, check));
      }
    }
  }
}

// Experts of all sizes: none, one row, below and above a tile, across several tiles.
const ExpertOffsets uneven{0, 0, 1, 31, 131, 131, 1431, 1495};

TEST(FeedForward, SinglePrecisionFollowsDouble) {
  for (const Case& example : cases) {
    SCOPED_TRACE(example.name);
    const std::int64_t sets = example.per_expert ? 7 : 1;
    Call f32(example.activation, DType::f32, {96, 80}, uneven, sets);
    Call f64(example.activation, DType::f64, {96, 80}, uneven, sets);
    for (Call* call : {&f32, &f64}) {
      call->forward();
      call->backward();
    }
    EXPECT_LT(test::relative_error(*f32.y, *f64.y), 1e-6);
    EXPECT_LT(test::relative_error(*f32.d_x, *f64.d_x), 1e-6);
    EXPECT_LT(test::relative_error(*f32.d_row_weights, *f64.d_row_weights), 1e-6);
    EXPECT_LT(test::relative_error(*f32.d_up, *f64.d_up), 1e-6);
    EXPECT_LT(test::relative_error(*f32.d_down, *f64.d_down), 1e-6);
    EXPECT_LT(test::relative_error(*f32.d_a, *f64.d_a), 2e-6);
  }
}

TEST(FeedForward, PaddedActivatedRowsAreTheSame) {
  // At 1024 - 100 columns the activated rows get a leading dimension of 1024.
  Call f32({}, DType::f32, {64, 924}, {0, 70, 200}, 1);
  Call f64({}, DType::f64, {64, 924}, {0, 70, 200}, 1);
  for (Call* call : {&f32, &f64}) {
    call->forward();
    call->backward();
  }
  EXPECT_LT(test::relative_error(*f32.y, *f64.y), 2e-6);
  EXPECT_LT(test::relative_error(*f32.d_down, *f64.d_down), 2e-6);
  EXPECT_LT(test::relative_error(*f32.d_up, *f64.d_up), 2e-6);
}

TEST(FeedForward, DoesNotDependOnTheNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const Case& example : cases) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(std::string(example.name) + " " + name_of(dtype));
      // Products in f32 are cut by the number of threads, and rounded where their parts end.
      const double rounding = dtype == DType::f64 ? 0.0 : 1e-5;
      Call one(example.activation, dtype, {96, 80}, uneven, 1);
      Call more(example.activation, dtype, {96, 80}, uneven, 1);
      Call again(example.activation, dtype, {96, 80}, uneven, 1);
      omp_set_num_threads(1);
      one.forward();
      one.backward();
      for (const int number : {2, 4}) {
        omp_set_num_threads(number);
        for (Call* call : {&more, &again}) {
          call->clear();
          call->forward();
          call->backward();
        }
        EXPECT_TRUE(test::bitwise_equal(*again.y, *more.y)) << number;
        EXPECT_TRUE(test::bitwise_equal(*again.d_x, *more.d_x)) << number;
        EXPECT_TRUE(test::bitwise_equal(*again.d_row_weights, *more.d_row_weights)) << number;
        EXPECT_TRUE(test::bitwise_equal(*again.d_up, *more.d_up)) << number;
        EXPECT_TRUE(test::bitwise_equal(*again.d_down, *more.d_down)) << number;
        EXPECT_TRUE(test::bitwise_equal(*again.d_a, *more.d_a)) << number;
        EXPECT_LE(test::relative_error(*more.y, *one.y), rounding) << number;
        EXPECT_LE(test::relative_error(*more.d_x, *one.d_x), rounding) << number;
        EXPECT_LE(test::relative_error(*more.d_row_weights, *one.d_row_weights), rounding)
            << number;
        EXPECT_LE(test::relative_error(*more.d_up, *one.d_up), rounding) << number;
        EXPECT_LE(test::relative_error(*more.d_down, *one.d_down), rounding) << number;
        EXPECT_LE(test::relative_error(*more.d_a, *one.d_a), rounding) << number;
      }
      omp_set_num_threads(threads);
    }
  }
}

TEST(FeedForward, PreActivationsAloneHaveTheBitsOfTheForwardPass) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::swiglu}) {
      Call call({kind, 3, 1e-6}, dtype, {48, 40}, {0, 700, 700, 701, 1500}, 1);
      call.forward();
      const OwnedTensor pre = poisoned_tensor(call.pre->shape(), dtype);
      feed_forward_pre_activations(call.activation, call.weights(), *call.x, call.offsets, *pre,
                                   call.stream);
      EXPECT_TRUE(test::bitwise_equal(*pre, *call.pre));
    }
  }
}

TEST(FeedForward, OneExpertIsTwoProductsAndAnActivation) {
  Call call({}, DType::f64, {20, 30}, {0, 77}, 1);
  call.weighted = false;
  call.forward();
  OwnedTensor h = poisoned_tensor({77, 30}, DType::f64), y = poisoned_tensor({77, 20}, DType::f64);
  matmul(*call.x, Transpose::no, call.up->view({30, 20}), Transpose::yes, Write::overwrite, *h,
         call.stream);
  EXPECT_TRUE(test::bitwise_equal(*call.pre, *h));
  activation_forward({}, *h, *call.a, call.offsets, {}, *h, call.stream);
  matmul(*h, Transpose::no, call.down->view({20, 30}), Transpose::yes, Write::overwrite, *y,
         call.stream);
  EXPECT_TRUE(test::bitwise_equal(*call.y, *y));
}

TEST(FeedForward, AddsToGradients) {
  Call call({}, DType::f64, {10, 8}, {0, 5, 5, 12}, 3);
  call.forward();
  call.backward();
  Call twice({}, DType::f64, {10, 8}, {0, 5, 5, 12}, 3);
  for (int pass = 0; pass < 2; ++pass) {
    twice.forward();
    twice.backward();
  }
  const auto doubled = [](const Tensor& tensor) {
    std::vector<double> values = values_of(tensor);
    for (double& value : values) value *= 2.0;
    return values;
  };
  EXPECT_TRUE(test::all_close(values_of(*twice.d_up), doubled(*call.d_up), {1e-14, 1e-14}));
  EXPECT_TRUE(test::all_close(values_of(*twice.d_down), doubled(*call.d_down), {1e-14, 1e-14}));
  EXPECT_TRUE(test::all_close(values_of(*twice.d_a), doubled(*call.d_a), {1e-14, 1e-14}));
}

TEST(FeedForward, WithoutRowsNothingHappens) {
  Call call({}, DType::f32, {16, 24}, {0, 0, 0}, 1);
  call.forward();
  call.backward();
  EXPECT_TRUE(test::bitwise_equal(*call.d_up, *OwnedTensor(call.up->shape(), DType::f32, {})));
  EXPECT_TRUE(test::bitwise_equal(*call.d_down, *OwnedTensor(call.down->shape(), DType::f32, {})));
  EXPECT_TRUE(test::bitwise_equal(*call.d_a, *OwnedTensor(call.a->shape(), DType::f32, {})));
}

TEST(FeedForward, MetaCountsTheScratchOfTheRealRun) {
  Call call({}, DType::f32, {32, 900}, uneven, 1);
  call.forward();
  call.backward();
  Stream stream(Device::meta());
  Arena plan({.device = Device::meta()});
  const auto meta = [](const OwnedTensor& tensor) {
    return Tensor(nullptr, tensor->shape(), tensor->dtype(), Device::meta());
  };
  const FeedForwardWeights weights{meta(call.up), meta(call.down), meta(call.a)};
  FeedForwardWeights gradients = weights;
  // The plan does not know how rows will spread over the experts.
  const ExpertOffsets even{0, 213, 427, 641, 854, 1068, 1281, 1495};
  feed_forward_forward({}, weights, meta(call.x), even, meta(call.row_weights), meta(call.pre),
                       meta(call.y), plan, stream);
  feed_forward_backward({}, weights, meta(call.d_y), meta(call.x), even, meta(call.row_weights),
                        meta(call.pre), meta(call.d_x), meta(call.d_row_weights), gradients, plan,
                        stream);
  EXPECT_EQ(plan.high_water(), call.arena.high_water());
  EXPECT_GT(plan.high_water(), 1495u * 1024u * 4u);
}

TEST(FeedForwardErrors, NameTheArgument) {
  Call call({}, DType::f32, {16, 24}, {0, 3, 9}, 1);
  const auto message = [&]() -> std::string {
    try {
      call.forward();
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message(), "accepted");
  call.offsets = {0, 9};
  EXPECT_EQ(message(), "feed_forward_forward: 2 offsets for 2 experts, expected 3");
  call.offsets = {0, 3, 8};
  EXPECT_EQ(message(),
            "feed_forward_forward: group offsets are [0, 3, 8], expected ascending values from 0 "
            "to the row count 9");
  call.offsets = {0, 3, 9};
  call.up = random_tensor({2, 48, 16}, DType::f32, "up");
  EXPECT_EQ(message(),
            "feed_forward_forward: weights.up has shape [2, 48, 16], expected [2, 24, 16]");
}

}  // namespace
}  // namespace polymoe

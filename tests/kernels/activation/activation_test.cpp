// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::Fixture;
using test::poisoned_tensor;
using test::random_tensor;
using test::tensor_of;
using test::values_of;
using Offsets = std::vector<std::int64_t>;

struct Arguments {
  Activation activation;
  DType dtype;
};

std::vector<Arguments> all_arguments(const std::vector<DType>& dtypes) {
  std::vector<Arguments> all;
  for (const DType dtype : dtypes) {
    for (const ActivationKind kind : all_activations()) {
      for (int order = 2; order <= 4; ++order) {
        if (order == 3 || has_order(kind)) all.push_back({{kind, order, 1e-6}, dtype});
      }
    }
  }
  return all;
}

std::string name_of_arguments(const ::testing::TestParamInfo<Arguments>& test) {
  return std::string(name_of(test.param.activation.kind)) +
         std::to_string(test.param.activation.order) + "_" + name_of(test.param.dtype);
}

// Inputs, and outputs that start as NaN, of one call on `rows` rows.
struct Call {
  Call(const Arguments& arguments, std::int64_t rows, std::int64_t width, std::int64_t sets)
      : activation(arguments.activation), dtype(arguments.dtype) {
    const std::int64_t factor = pre_activation_factor(activation.kind);
    const std::int64_t count = coefficient_count(activation);
    x = random_tensor({rows, factor * width}, dtype, "x", {0.1, 1.5});
    d_y = random_tensor({rows, width}, dtype, "d_y");
    if (count > 0) {
      a = random_tensor({sets, count}, dtype, "a");
      d_a = random_tensor({sets, count}, dtype, "d_a");
    }
    y = poisoned_tensor({rows, width}, dtype);
    d_x = poisoned_tensor({rows, factor * width}, dtype);
  }

  void forward(const Offsets& offsets) {
    activation_forward(activation, *x, *a, offsets, {}, *y, stream);
  }
  void backward(const Offsets& offsets) {
    activation_backward(activation, *d_y, *x, *a, offsets, {}, {*d_x, *d_a, {}, {}}, arena, stream);
  }

  Activation activation;
  DType dtype;
  Stream stream{Device::cpu()};
  Arena arena{{.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true}};
  OwnedTensor x, d_y, a, d_a, y, d_x;
};

double row_maximum(const Tensor& x, std::int64_t row) {
  const std::vector<double> values = values_of(x.rows(row, row + 1));
  double largest = 0.0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

class EveryActivation : public ::testing::TestWithParam<Arguments> {};
INSTANTIATE_TEST_SUITE_P(All, EveryActivation,
                         ::testing::ValuesIn(all_arguments({DType::f32, DType::f64})),
                         name_of_arguments);
// Differences need double.
class EveryActivationInDouble : public EveryActivation {};
INSTANTIATE_TEST_SUITE_P(All, EveryActivationInDouble,
                         ::testing::ValuesIn(all_arguments({DType::f64})), name_of_arguments);

TEST_P(EveryActivation, EqualsPyTorch) {
  const auto& [activation, dtype] = GetParam();
  const Fixture fixture("activations.txt");
  const std::string name =
      std::string(name_of(activation.kind)) + "." + std::to_string(activation.order);
  const std::int64_t rows = fixture.shape("d_y")[0], width = fixture.shape("d_y")[1];
  const std::int64_t count = coefficient_count(activation);

  Call call(GetParam(), rows, width, 1);
  // The fixture's rows hold [gate, up]; activations of one input use the left half.
  const std::vector<double> wide = fixture.values("x");
  std::vector<double> x;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto row = wide.begin() + r * 2 * width;
    x.insert(x.end(), row, row + call.x->dim(1));
  }
  call.x = tensor_of(call.x->shape(), dtype, x);
  call.d_y = fixture.tensor("d_y", dtype);
  if (count > 0) {
    call.a = tensor_of({1, count}, dtype, fixture.values(name + ".a"));
    call.d_a = OwnedTensor({1, count}, dtype, Device::cpu());
  }
  call.forward({0, rows});
  call.backward({0, rows});

  // Errors are relative to a row's largest element: a polynomial's terms cancel.
  const double tolerance = dtype == DType::f64 ? 1e-14 : 3e-6;
  const OwnedTensor y = fixture.tensor(name + ".y", dtype);
  const OwnedTensor d_x = fixture.tensor(name + ".d_x", dtype);
  for (std::int64_t r = 0; r < rows; ++r) {
    EXPECT_TRUE(test::all_close(call.y->rows(r, r + 1), y->rows(r, r + 1),
                                {tolerance, tolerance * row_maximum(*y, r)}))
        << "y, row " << r;
    EXPECT_TRUE(test::all_close(call.d_x->rows(r, r + 1), d_x->rows(r, r + 1),
                                {tolerance, tolerance * row_maximum(*d_x, r)}))
        << "d_x, row " << r;
  }
  if (count > 0) {
    const test::Tolerance of_sums{tolerance * 10, tolerance * 10};
    EXPECT_TRUE(test::all_close(values_of(*call.d_a), fixture.values(name + ".d_a"), of_sums));
  }
}

TEST_P(EveryActivation, GroupsUseTheirOwnCoefficientsAndMayBeEmpty) {
  const auto& [activation, dtype] = GetParam();
  const Offsets offsets{0, 0, 130, 130, 137, 337};
  constexpr std::int64_t groups = 5, width = 37;
  const std::int64_t count = coefficient_count(activation);
  Call whole(GetParam(), 337, width, groups);
  const std::vector<double> start = count > 0 ? values_of(*whole.d_a) : std::vector<double>{};
  whole.forward(offsets);
  whole.backward(offsets);
  for (std::size_t g = 0; g < groups; ++g) {
    const std::int64_t begin = offsets[g], end = offsets[g + 1];
    const auto set = static_cast<std::int64_t>(g);
    OwnedTensor y = poisoned_tensor({end - begin, width}, dtype);
    OwnedTensor d_x = poisoned_tensor({end - begin, whole.x->dim(1)}, dtype);
    OwnedTensor d_a;
    Tensor a;
    if (count > 0) {
      a = whole.a->rows(set, set + 1);
      d_a = OwnedTensor({1, count}, dtype, Device::cpu());
    }
    activation_forward(activation, whole.x->rows(begin, end), a, {0, end - begin}, {}, *y,
                       whole.stream);
    activation_backward(activation, whole.d_y->rows(begin, end), whole.x->rows(begin, end), a,
                        {0, end - begin}, {}, {*d_x, *d_a, {}, {}}, whole.arena, whole.stream);
    EXPECT_TRUE(test::bitwise_equal(whole.y->rows(begin, end), *y));
    EXPECT_TRUE(test::bitwise_equal(whole.d_x->rows(begin, end), *d_x));
    if (count > 0) {
      std::vector<double> expected = values_of(*d_a);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        expected[i] += start[g * static_cast<std::size_t>(count) + i];
      }
      EXPECT_TRUE(test::all_close(values_of(whole.d_a->rows(set, set + 1)), expected,
                                  test::tolerance_of(dtype)));
    }
  }
}

TEST_P(EveryActivation, DoesNotDependOnTheNumberOfThreads) {
  const Offsets offsets{0, 211, 300};
  const int threads = omp_get_max_threads();
  Call calls[]{{GetParam(), 300, 65, 2}, {GetParam(), 300, 65, 2}};
  for (int i = 0; i < 2; ++i) {
    omp_set_num_threads(i == 0 ? 1 : 3);
    calls[i].forward(offsets);
    calls[i].backward(offsets);
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(test::bitwise_equal(*calls[0].y, *calls[1].y));
  EXPECT_TRUE(test::bitwise_equal(*calls[0].d_x, *calls[1].d_x));
  if (calls[0].a->defined()) {
    EXPECT_TRUE(test::bitwise_equal(*calls[0].d_a, *calls[1].d_a));
  }
}

TEST_P(EveryActivation, MayOverwriteItsInput) {
  const Offsets offsets{0, 50};
  Call call(GetParam(), 50, 21, 1);
  call.forward(offsets);
  call.backward(offsets);
  Call in_place(GetParam(), 50, 21, 1);
  activation_backward(in_place.activation, *in_place.d_y, *in_place.x, *in_place.a, offsets, {},
                      {*in_place.x, *in_place.d_a, {}, {}}, in_place.arena, in_place.stream);
  EXPECT_TRUE(test::bitwise_equal(*in_place.x, *call.d_x));
  if (is_gated(call.activation.kind)) return;
  activation_forward(call.activation, *call.x, *call.a, offsets, {}, *call.x, call.stream);
  EXPECT_TRUE(test::bitwise_equal(*call.x, *call.y));
}

// A row's weight w makes w y of y, and w d_y of what comes back; its own gradient is <d_y, y>. The
// activated rows come with the gradients, in the place of d_y, as the feed-forward asks for them.
TEST_P(EveryActivation, WeighsRows) {
  constexpr std::int64_t rows = 50, width = 21;
  const Offsets offsets{0, 17, 17, 50};
  Call plain(GetParam(), rows, width, 3), weighted(GetParam(), rows, width, 3);
  const DType dtype = plain.dtype;
  const OwnedTensor weights = random_tensor({rows}, dtype, "weights", {0.5, 0.5});
  const OwnedTensor d_weights = poisoned_tensor({rows}, dtype);
  activation_forward(weighted.activation, *weighted.x, *weighted.a, offsets, *weights, *weighted.y,
                     weighted.stream);
  activation_backward(weighted.activation, *weighted.d_y, *weighted.x, *weighted.a, offsets,
                      *weights, {*weighted.d_x, *weighted.d_a, *weighted.d_y, *d_weights},
                      weighted.arena, weighted.stream);
  plain.forward(offsets);
  const std::vector<double> w = values_of(*weights), y = values_of(*plain.y);
  std::vector<double> weighted_y = y, weighted_d_y = values_of(*plain.d_y), dots(rows);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const std::size_t row = i / width;
    dots[row] += weighted_d_y[i] * y[i];
    weighted_y[i] *= w[row];
    weighted_d_y[i] *= w[row];
  }
  plain.d_y = tensor_of({rows, width}, dtype, weighted_d_y);
  plain.backward(offsets);
  const double tolerance = dtype == DType::f32 ? 1e-5 : 1e-13;
  const auto close = [&](const Tensor& actual, const Tensor& expected) {
    return test::relative_error(actual, expected) <= tolerance;
  };
  EXPECT_TRUE(close(*weighted.y, *tensor_of({rows, width}, dtype, weighted_y)));
  EXPECT_TRUE(close(*weighted.d_y, *weighted.y));
  EXPECT_TRUE(close(*d_weights, *tensor_of({rows}, dtype, dots)));
  EXPECT_TRUE(close(*weighted.d_x, *plain.d_x));
  if (plain.a->defined()) {
    EXPECT_TRUE(close(*weighted.d_a, *plain.d_a));
  }
}

TEST_P(EveryActivationInDouble, GradientsMatchDifferences) {
  const Offsets offsets{0, 3, 7};
  Call call(GetParam(), 7, 11, 2);
  // Keep away from the kink at zero, where differences mean nothing.
  for (std::int64_t i = 0; i < call.x->elements(); ++i) {
    double& value = call.x->data<double>()[i];
    if (std::abs(value) < 0.05) value = std::copysign(0.05, value);
  }
  if (call.a->defined()) call.d_a = OwnedTensor(call.a->shape(), DType::f64, Device::cpu());
  call.backward(offsets);
  const auto loss = [&] {
    call.forward(offsets);
    return test::inner_product(*call.d_y, *call.y);
  };
  EXPECT_TRUE(test::gradient_matches("x", *call.x, *call.d_x, loss));
  if (call.a->defined()) {
    EXPECT_TRUE(test::gradient_matches("a", *call.a, *call.d_a, loss));
  }
}

TEST_P(EveryActivation, NanIsNotSwallowed) {
  Call call(GetParam(), 2, 20, 1);
  if (GetParam().dtype == DType::f32) {
    call.x->data<float>()[3] = NAN;
  } else {
    call.x->data<double>()[3] = NAN;
  }
  call.forward({0, 2});
  call.backward({0, 2});
  EXPECT_TRUE(std::isnan(values_of(*call.y)[3]));
  EXPECT_FALSE(std::isnan(values_of(*call.y)[20]));
}

// Lemma 1: what PolyReLU contains. Coefficients a_0 .. a_3.
TEST(PolyReluContains, ReluReluSquaredAndPolynomials) {
  Stream stream(Device::cpu());
  const Offsets offsets{0, 40};
  const OwnedTensor x = random_tensor({40, 33}, DType::f64, "x", {0.0, 3.0});
  const auto apply = [&](ActivationKind kind, const Tensor& input, std::vector<double> a) {
    OwnedTensor y = poisoned_tensor(input.shape(), DType::f64);
    const auto count = static_cast<std::int64_t>(a.size());
    const OwnedTensor coefficients = tensor_of({1, count}, DType::f64, a);
    activation_forward({kind, 3, 1e-6}, input, *coefficients, offsets, {}, *y, stream);
    return y;
  };
  EXPECT_TRUE(test::bitwise_equal(*apply(ActivationKind::polyrelu, *x, {0, 1, 0, 0}),
                                  *apply(ActivationKind::relu, *x, {})));
  EXPECT_TRUE(test::bitwise_equal(*apply(ActivationKind::polyrelu, *x, {0, 0, 1, 0}),
                                  *apply(ActivationKind::relu2, *x, {})));
  // On x >= 0 any polynomial, hence on any bounded domain after a shift by its lower end.
  std::vector<double> positive = values_of(*x);
  for (double& value : positive) value = std::abs(value);
  const OwnedTensor right = tensor_of(x->shape(), DType::f64, positive);
  const std::vector<double> a{0.7, -1.3, 0.4, -0.2};
  EXPECT_TRUE(test::bitwise_equal(*apply(ActivationKind::polyrelu, *right, a),
                                  *apply(ActivationKind::polynomial, *right, a)));
}

// Theorem 1: every ReLU network is exactly a PolyReLU network of the same size, with a_1 = 1.
TEST(PolyReluContains, EveryReluNetwork) {
  Stream stream(Device::cpu());
  constexpr std::int64_t rows = 64;
  const std::vector<std::int64_t> widths{24, 48, 96, 32, 1};
  const OwnedTensor a = tensor_of({1, 4}, DType::f64, {0, 1, 0, 0});
  const auto network = [&](ActivationKind kind) {
    OwnedTensor h = random_tensor({rows, widths[0]}, DType::f64, "input");
    for (std::size_t layer = 1; layer < widths.size(); ++layer) {
      const OwnedTensor weight = random_tensor({widths[layer], widths[layer - 1]}, DType::f64,
                                               "weight" + std::to_string(layer), {0.0, 0.3});
      OwnedTensor next = poisoned_tensor({rows, widths[layer]}, DType::f64);
      matmul(*h, Transpose::no, *weight, Transpose::yes, Write::overwrite, *next, stream);
      if (layer + 1 < widths.size()) {
        activation_forward({kind, 3, 1e-6}, *next, *a, {0, rows}, {}, *next, stream);
      }
      h = std::move(next);
    }
    return h;
  };
  const OwnedTensor relu = network(ActivationKind::relu);
  const OwnedTensor polyrelu = network(ActivationKind::polyrelu);
  EXPECT_TRUE(test::bitwise_equal(*polyrelu, *relu));
  EXPECT_GT(row_maximum(*relu, 0), 0.0);
}

TEST(ActivationNames, AreTheConfigurationsSpelling) {
  std::set<std::string> names;
  for (const ActivationKind kind : all_activations()) {
    EXPECT_EQ(parse_activation(name_of(kind)), kind);
    names.insert(name_of(kind));
  }
  EXPECT_EQ(names, (std::set<std::string>{"relu", "leaky_relu", "prelu", "relu2", "gelu", "silu",
                                          "swiglu", "polyrelu", "polyprelu", "polynorm",
                                          "polyrelunorm", "polynomial"}));
  try {
    parse_activation("swish");
    FAIL() << "accepted swish";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(),
                 "unknown activation 'swish', allowed: relu, leaky_relu, prelu, relu2, gelu, silu, "
                 "swiglu, polyrelu, polyprelu, polynorm, polyrelunorm, polynomial");
  }
}

TEST(ActivationCoefficients, StartAsThePaperSays) {
  using Kind = ActivationKind;
  const auto start = [](Kind kind, int order) { return initial_coefficients({kind, order, 1e-6}); };
  EXPECT_EQ(start(Kind::relu, 3), std::vector<double>{});
  EXPECT_EQ(start(Kind::swiglu, 3), std::vector<double>{});
  EXPECT_EQ(start(Kind::prelu, 3), std::vector<double>{0.25});
  EXPECT_EQ(start(Kind::polynorm, 3), (std::vector<double>{0.0, 1.0 / 3, 1.0 / 3, 1.0 / 3}));
  EXPECT_EQ(start(Kind::polyrelu, 2), (std::vector<double>{0.0, 0.5, 0.5}));
  EXPECT_EQ(start(Kind::polyprelu, 4), (std::vector<double>{0.0, 0.25, 0.25, 0.25, 0.25, 0.25}));
}

TEST(ActivationErrors, NameValueAndRange) {
  Stream stream(Device::cpu());
  const OwnedTensor x = random_tensor({4, 6}, DType::f32, "x");
  const OwnedTensor y({4, 6}, DType::f32, Device::cpu());
  const OwnedTensor a({2, 4}, DType::f32, Device::cpu());
  const auto message = [&](const Activation& activation, const Tensor& coefficients,
                           const Offsets& offsets) -> std::string {
    try {
      activation_forward(activation, *x, coefficients, offsets, {}, *y, stream);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "accepted";
  };
  const Activation polynorm{ActivationKind::polynorm, 3, 1e-6};
  EXPECT_EQ(message(polynorm, *a, {0, 1, 4}), "accepted");
  EXPECT_EQ(message({ActivationKind::polynorm, 5, 1e-6}, *a, {0, 1, 4}),
            "activation_forward: order is 5, allowed are 2 to 4");
  EXPECT_EQ(message(polynorm, *a, {0, 3, 2, 4}),
            "activation_forward: group offsets are [0, 3, 2, 4], expected ascending values from 0 "
            "to the row count 4");
  EXPECT_EQ(message(polynorm, *a, {0, 1, 2, 4}),
            "activation_forward: coefficients has shape [2, 4], expected [1, 4]");
  EXPECT_EQ(message({ActivationKind::swiglu, 3, 1e-6}, Tensor{}, {0, 4}),
            "activation_forward: y has shape [4, 6], expected [4, 3]");
}

}  // namespace
}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
// Every activation on every device, as the feed-forward uses it, against the CPU in f64.
#include "kernels/activation/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::norm_tolerance;
using test::random_tensor;
using Offsets = std::vector<std::int64_t>;

class ActivationDevices : public test::OnDevice {
 protected:
  struct Options {
    bool weighted = true;        // rows have weights, whose gradients are wanted
    bool activated_rows = true;  // the backward pass gives y again
    bool in_place = false;       // d_x in the place of x, y in that of d_y
    bool set_per_group = true;
  };

  void compare(const Activation& activation, std::int64_t width, const Offsets& offsets,
               const Options& options) {
    SCOPED_TRACE(std::string(name_of(activation.kind)) + " order " +
                 std::to_string(activation.order) + " width " + std::to_string(width) +
                 (options.weighted ? " weighted" : "") +
                 (options.activated_rows ? " with activated rows" : "") +
                 (options.in_place ? " in place" : ""));
    const std::int64_t rows = offsets.back(), count = coefficient_count(activation);
    const std::int64_t sets =
        options.set_per_group ? static_cast<std::int64_t>(offsets.size()) - 1 : 1;
    const Shape inner{rows, pre_activation_factor(activation.kind) * width}, outer{rows, width};
    const OwnedTensor x = random_tensor(inner, dtype(), "x", {0.1, 2.0}),
                      d_y = random_tensor(outer, dtype(), "d_y", {0.2, 1.0});
    const OwnedTensor a = random_tensor({sets, count}, wide_dtype(), "a", {0.3, 0.5}),
                      d_a = random_tensor({sets, count}, wide_dtype(), "d_a"),
                      weights = random_tensor({rows}, wide_dtype(), "weights", {0.5, 0.5});

    struct Results {
      OwnedTensor y, d_x, y_again, d_weights, d_a;
    };
    const auto run = [&](const auto& in, const auto& blank, bool in_place, Arena& memory,
                         Stream& on) {
      Results out{blank(outer, dtype()), in_place ? in(*x) : blank(inner, dtype()),
                  in_place ? in(*d_y) : blank(outer, dtype()), blank({rows}, wide_dtype()),
                  in(*d_a)};
      const OwnedTensor own_x = in(*x), own_d_y = in(*d_y), own_a = in(*a), own_w = in(*weights);
      const Tensor row_weights = options.weighted ? *own_w : Tensor();
      activation_forward(activation, *own_x, *own_a, offsets, row_weights, *out.y, on);
      activation_backward(activation, in_place ? *out.y_again : *own_d_y,
                          in_place ? *out.d_x : *own_x, *own_a, offsets, row_weights,
                          {*out.d_x, *out.d_a, options.activated_rows ? *out.y_again : Tensor(),
                           options.weighted ? *out.d_weights : Tensor()},
                          memory, on);
      on.synchronize();
      return out;
    };
    const Results expected =
        run([](const Tensor& tensor) { return converted(tensor, DType::f64); },
            [](const Shape& shape, DType) { return test::poisoned_tensor(shape, DType::f64); },
            false, cpu_arena_, cpu_);
    const Results actual =
        run([&](const Tensor& tensor) { return moved(tensor); },
            [&](const Shape& shape, DType type) { return poisoned(shape, type); }, options.in_place,
            arena(), stream());
    expect_near(actual.y, expected.y, norm_tolerance(dtype()), "y");
    expect_near(actual.d_x, expected.d_x, norm_tolerance(dtype()), "d_x");
    if (options.activated_rows) {
      expect_near(actual.y_again, expected.y, norm_tolerance(dtype()), "y again");
    }
    // Sums of f32 products of either dtype, with cancellation.
    if (options.weighted) expect_near(actual.d_weights, expected.d_weights, 1e-4, "d_weights");
    if (count > 0) expect_near(actual.d_a, expected.d_a, 1e-4, "d_a");
  }

  void expect_near(const OwnedTensor& on_device, const OwnedTensor& expected, double tolerance,
                   const char* what) {
    EXPECT_LE(test::relative_error(*fetched(*on_device), *expected), tolerance) << what;
  }

  Stream cpu_{Device::cpu()};
  Arena cpu_arena_{{.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true}};
};
INSTANTIATE_TEST_SUITE_P(All, ActivationDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// Rows per group: some, none, one, many, none.
const Offsets uneven = {0, 37, 37, 38, 301, 301};

TEST_P(ActivationDevices, EveryKindWithAndWithoutRowWeights) {
  for (const ActivationKind kind : all_activations()) {
    for (const std::int64_t width : {64, 33}) {
      for (const bool weighted : {false, true}) {
        for (const bool activated_rows : {false, true}) {
          compare({.kind = kind}, width, uneven,
                  {.weighted = weighted, .activated_rows = activated_rows});
        }
      }
      compare({.kind = kind}, width, uneven, {.set_per_group = false});
    }
  }
}

TEST_P(ActivationDevices, EveryOrderInThePlaceOfItsInputs) {
  for (const ActivationKind kind :
       {ActivationKind::polynorm, ActivationKind::polyrelunorm, ActivationKind::polyrelu,
        ActivationKind::polyprelu, ActivationKind::polynomial, ActivationKind::swiglu}) {
    for (const int order : {2, 3, 4}) {
      for (const std::int64_t width : {72, 37}) {
        compare({.kind = kind, .order = order}, width, uneven, {.in_place = true});
      }
    }
  }
}

// Widths of one element, off the vectors, of one warp, several, and beyond what registers hold.
TEST_P(ActivationDevices, EveryWidth) {
  for (const ActivationKind kind :
       {ActivationKind::polynorm, ActivationKind::polyrelunorm, ActivationKind::swiglu,
        ActivationKind::gelu, ActivationKind::polyrelu}) {
    for (const std::int64_t width : {1, 7, 8, 100, 1024, 1536, 2048, 4104, 8256, 16384, 33024}) {
      const Offsets offsets = width > 10000 ? Offsets{0, 2, 2, 3} : Offsets{0, 5, 5, 6, 37};
      compare({.kind = kind}, width, offsets, {.in_place = true});
    }
  }
}

// More groups than one launch takes, and more rows than blocks.
TEST_P(ActivationDevices, ManyGroupsAndManyRows) {
  Offsets offsets{0};
  for (std::int64_t g = 0; g < 300; ++g) offsets.push_back(offsets.back() + g % 5);
  for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::polyprelu}) {
    compare({.kind = kind}, 64, offsets, {});
    compare({.kind = kind}, 24, {0, 9000, 2048 * 8 + 5}, {});
    compare({.kind = kind}, 1536, {0, 1000, 1000, 2500}, {.in_place = true});
  }
}

TEST_P(ActivationDevices, NoRowsLeaveTheGradientsAsTheyAre) {
  for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::prelu}) {
    const Activation activation{.kind = kind};
    const OwnedTensor x({0, 64}, dtype(), device()), weights({0}, wide_dtype(), device());
    const Shape sets{2, coefficient_count(activation)};
    const OwnedTensor start = random_tensor(sets, wide_dtype(), "d_a"), d_a = moved(*start),
                      a = moved(*random_tensor(sets, wide_dtype(), "a"));
    activation_forward(activation, *x, *a, {0, 0, 0}, *weights, *x, stream());
    activation_backward(activation, *x, *x, *a, {0, 0, 0}, *weights, {*x, *d_a, *x, *weights},
                        arena(), stream());
    EXPECT_EQ(test::relative_error(*fetched(*d_a), *converted(*start, DType::f64)), 0.0);
  }
}

// The same bits again, whatever the order in which blocks ran.
TEST_P(ActivationDevices, RepeatsItsBits) {
  for (const ActivationKind kind : {ActivationKind::polynorm, ActivationKind::polyprelu}) {
    const Activation activation{.kind = kind};
    const Offsets offsets{0, 700, 700, 3000};
    const Shape shape{3000, 264}, sets{3, coefficient_count(activation)};
    const OwnedTensor x = moved(*random_tensor(shape, dtype(), "x")),
                      d_y = moved(*random_tensor(shape, dtype(), "d_y")),
                      a = moved(*random_tensor(sets, wide_dtype(), "a")),
                      weights = moved(*random_tensor({3000}, wide_dtype(), "weights"));
    std::vector<OwnedTensor> sums;
    for (int run = 0; run < 3; ++run) {
      const OwnedTensor d_a(sets, wide_dtype(), device()),
          d_x = poisoned(shape, dtype()), d_weights = poisoned({3000}, wide_dtype());
      activation_backward(activation, *d_y, *x, *a, offsets, *weights, {*d_x, *d_a, {}, *d_weights},
                          arena(), stream());
      sums.push_back(fetched(*d_a));
      EXPECT_TRUE(test::bitwise_equal(*sums.back(), *sums.front()));
    }
  }
}

}  // namespace
}  // namespace polymoe

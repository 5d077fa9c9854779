// SPDX-License-Identifier: Apache-2.0
// Every device's product against the CPU's in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "kernels/matmul/row_products.h"
#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::random_tensor;

struct Extents {
  std::int64_t m, n, k;
};
const Extents cases[] = {{128, 192, 256}, {7, 13, 5},       {1, 64, 200},
                         {96, 1, 33},     {256, 512, 1024}, {1, 37, 2056}};

class MatmulDevices : public test::OnDevice {
 protected:
  void expect_product(const Extents& extents, bool ta, bool tb, Write write, DType output) {
    const auto [m, n, k] = extents;
    const Shape a_shape = ta ? Shape{k, m} : Shape{m, k}, b_shape = tb ? Shape{n, k} : Shape{k, n};
    const double scale = 1.0 / std::sqrt(static_cast<double>(k));
    const OwnedTensor a = converted(*random_tensor(a_shape, DType::f64, "a"), dtype());
    const OwnedTensor b =
        converted(*random_tensor(b_shape, DType::f64, "b", {0.0, scale}), dtype());
    const OwnedTensor before = converted(*random_tensor({m, n}, DType::f64, "c"), output);
    const OwnedTensor expected = converted(*before, DType::f64);
    Stream host(Device::cpu());
    const Transpose transpose_a = ta ? Transpose::yes : Transpose::no;
    const Transpose transpose_b = tb ? Transpose::yes : Transpose::no;
    matmul(*converted(*a, DType::f64), transpose_a, *converted(*b, DType::f64), transpose_b, write,
           *expected, host);
    const OwnedTensor device_a = moved(*a), device_b = moved(*b);
    // The second call takes the algorithm that the first one chose.
    for (int call = 0; call < 2; ++call) {
      const OwnedTensor c = write == Write::accumulate ? moved(*before) : poisoned({m, n}, output);
      matmul(*device_a, transpose_a, *device_b, transpose_b, write, *c, stream());
      EXPECT_LE(test::relative_error(*fetched(*c), *expected), test::norm_tolerance(output))
          << m << " x " << n << " x " << k << (ta ? " a^T" : "") << (tb ? " b^T" : "")
          << (write == Write::accumulate ? " accumulated" : "") << " call " << call;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, MatmulDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(MatmulDevices, IsTheProductInF64) {
  for (const Extents& extents : cases) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        for (const Write write : {Write::overwrite, Write::accumulate}) {
          expect_product(extents, ta, tb, write, dtype());
        }
      }
    }
  }
}

TEST_P(MatmulDevices, GradientsOfBf16AccumulateInF32) {
  for (const Write write : {Write::overwrite, Write::accumulate}) {
    expect_product({64, 96, 320}, true, false, write, wide_dtype());
  }
}

TEST_P(MatmulDevices, NoTermsGiveZerosOrWhatWasThere) {
  const OwnedTensor a = moved(*random_tensor({5, 0}, DType::f64, "a"), dtype());
  const OwnedTensor b = moved(*random_tensor({0, 4}, DType::f64, "b"), dtype());
  const OwnedTensor zeros = poisoned({5, 4}, dtype());
  matmul(*a, Transpose::no, *b, Transpose::no, Write::overwrite, *zeros, stream());
  const OwnedTensor before = random_tensor({5, 4}, DType::f32, "c");
  const OwnedTensor kept = moved(*before, dtype());
  matmul(*a, Transpose::no, *b, Transpose::no, Write::accumulate, *kept, stream());
  for (const double value : test::values_of(*fetched(*zeros))) EXPECT_EQ(value, 0.0);
  EXPECT_TRUE(
      test::bitwise_equal(*fetched(*kept), *converted(*converted(*before, dtype()), DType::f64)));
}

TEST_P(MatmulDevices, TwoStreamsGiveTheSameBits) {
  const OwnedTensor a = moved(*random_tensor({300, 700}, DType::f64, "a"), dtype());
  const OwnedTensor b = moved(*random_tensor({700, 500}, DType::f64, "b"), dtype());
  const OwnedTensor first = poisoned({300, 500}, dtype()), second = poisoned({300, 500}, dtype());
  Stream other(device());
  matmul(*a, Transpose::no, *b, Transpose::no, Write::overwrite, *first, stream());
  matmul(*a, Transpose::no, *b, Transpose::no, Write::overwrite, *second, other);
  other.synchronize();
  EXPECT_TRUE(test::bitwise_equal(*fetched(*first), *fetched(*second)));
}

/// Of several widths, beside each other, with results of both dtypes, some in whole vectors.
TEST_P(MatmulDevices, ProductsOfOneRowAreEachThatRowsProduct) {
  for (const std::int64_t k : {5, 64, 2048}) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(k));
    const OwnedTensor x = moved(*random_tensor({1, k}, DType::f64, "x"), dtype());
    std::vector<OwnedTensor> weights, together, alone;
    std::vector<RowProduct> products;
    for (const std::int64_t n : {96, 1, 0, 33}) {
      const DType output = n == 1 ? wide_dtype() : dtype();
      weights.push_back(moved(
          *random_tensor({n, k}, DType::f64, "w" + std::to_string(n), {0.0, scale}), dtype()));
      together.push_back(poisoned({1, n}, output));
      alone.push_back(poisoned({1, n}, output));
      products.push_back({*weights.back(), *together.back()});
      matmul(*x, Transpose::no, *weights.back(), Transpose::yes, Write::overwrite, *alone.back(),
             stream());
    }
    row_products({.x = *x}, products, arena(), stream());
    for (std::size_t i = 0; i < products.size(); ++i)
      EXPECT_TRUE(test::bitwise_equal(*fetched(*together[i]), *fetched(*alone[i])))
          << k << ' ' << i;
  }
}

/// A row of few vectors, one of whole requests, ones that end amid them, and one that is too long
/// for the shared memory of a GPU's processor.
TEST_P(MatmulDevices, ProductsOfANormedRowAreAddedToTheResidual) {
  constexpr double epsilon = 1e-3;
  for (const std::int64_t k : {5, 64, 2048, 2568, 40000}) {
    SCOPED_TRACE(k);
    // One tile of results a block, parts of tiles, and several tiles a block.
    const std::int64_t n = k == 40000 ? 3 : k == 64 ? 9000 : k == 2568 ? 2200 : 1100;
    const auto drawn = [&](const Shape& shape, const char* name, double deviation) {
      return converted(*random_tensor(shape, DType::f64, name, {0.0, deviation}), dtype());
    };
    const OwnedTensor x = drawn({1, k}, "x", 2.0), scale = drawn({k}, "scale", 1.0);
    const OwnedTensor weight = drawn({n, k}, "w", 1.0 / std::sqrt(static_cast<double>(k)));
    const OwnedTensor before = drawn({1, n}, "before", 1.0);
    const OwnedTensor device_x = moved(*x), device_scale = moved(*scale);
    const OwnedTensor device_weight = moved(*weight), device_before = moved(*before);
    const OwnedTensor own = poisoned({1, n}, dtype()), alone = poisoned({1, n}, dtype());
    const std::vector<RowProduct> products = {{*device_weight, *own, *device_before},
                                              {*device_weight, *alone}};
    const RowInput input{*device_x, *device_scale, epsilon};
    row_products(input, products, arena(), stream());
    const RowProduct in_place{*device_weight, *device_before, *device_before};
    row_products(input, {&in_place, 1}, arena(), stream());

    Stream cpu(Device::cpu());
    const OwnedTensor normed({1, k}, DType::f64, Device::cpu());
    const OwnedTensor inv_rms({1}, DType::f64, Device::cpu());
    rms_norm_forward(*converted(*x, DType::f64), *converted(*scale, DType::f64), epsilon, *normed,
                     *inv_rms, cpu);
    const OwnedTensor product({1, n}, DType::f64, Device::cpu());
    matmul(*normed, Transpose::no, *converted(*weight, DType::f64), Transpose::yes,
           Write::overwrite, *product, cpu);
    const OwnedTensor sum = converted(*before, DType::f64);
    add(*product, *sum, cpu);
    const double tolerance = test::norm_tolerance(dtype());
    EXPECT_LE(test::relative_error(*fetched(*own), *sum), tolerance);
    EXPECT_LE(test::relative_error(*fetched(*alone), *product), tolerance);
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_before), *fetched(*own)));
  }
}

}  // namespace
}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
// The operations on rows and elements, on every device, against the CPU in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/embedding/embedding.h"
#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rotary/rotary.h"
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
using test::values_of;

class RowOperations : public test::OnDevice {
 protected:
  OwnedTensor draw(const Shape& shape, const char* name, test::Normal distribution = {}) {
    return random_tensor(shape, dtype(), name, distribution);
  }
  OwnedTensor draw_wide(const Shape& shape, const char* name, test::Normal distribution = {}) {
    return random_tensor(shape, wide_dtype(), name, distribution);
  }
  static OwnedTensor f64(const OwnedTensor& tensor) { return converted(*tensor, DType::f64); }
  static OwnedTensor poisoned64(const Shape& shape) { return poisoned_tensor(shape, DType::f64); }
  void expect_near(const OwnedTensor& on_device, const OwnedTensor& expected, double tolerance) {
    EXPECT_LE(relative_error(*fetched(*on_device), *expected), tolerance);
  }
  double tolerance() const { return norm_tolerance(dtype()); }

  Stream cpu_{Device::cpu()};
  Arena cpu_arena_{{.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true}};
};
INSTANTIATE_TEST_SUITE_P(All, RowOperations, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(RowOperations, RmsNorm) {
  for (const Shape& shape : {Shape{37, 2048}, Shape{300, 33}, Shape{5, 8200}, Shape{1000, 128},
                             Shape{3, 20000}, Shape{0, 64}}) {
    for (const Write write : {Write::overwrite, Write::accumulate}) {
      SCOPED_TRACE(to_string(shape));
      const OwnedTensor x = draw(shape, "x", {0.2, 3.0}), d_y = draw(shape, "d_y"),
                        w = draw({shape[1]}, "w", {1.0, 0.2}), d_x = draw(shape, "d_x");
      const OwnedTensor d_w = draw_wide({shape[1]}, "d_w");
      const OwnedTensor x64 = f64(x), d_y64 = f64(d_y), w64 = f64(w), d_x64 = f64(d_x),
                        d_w64 = f64(d_w), y64 = poisoned64(shape),
                        inv_rms64 = poisoned64({shape[0]});
      rms_norm_forward(*x64, *w64, 1e-5, *y64, *inv_rms64, cpu_);
      rms_norm_backward(*d_y64, *x64, *inv_rms64, *w64, write, *d_x64, *d_w64, cpu_arena_, cpu_);

      const OwnedTensor on_x = moved(*x), on_d_y = moved(*d_y), on_w = moved(*w),
                        on_d_w = moved(*d_w), y = poisoned(shape, dtype()),
                        inv_rms = poisoned({shape[0]}, wide_dtype());
      const OwnedTensor on_d_x =
          write == Write::accumulate ? moved(*d_x) : poisoned(shape, dtype());
      rms_norm_forward(*on_x, *on_w, 1e-5, *y, *inv_rms, stream());
      rms_norm_backward(*on_d_y, *on_x, *inv_rms, *on_w, write, *on_d_x, *on_d_w, arena(),
                        stream());
      expect_near(y, y64, tolerance());
      expect_near(inv_rms, inv_rms64, 1e-5);
      expect_near(on_d_x, d_x64, tolerance());
      expect_near(on_d_w, d_w64, 1e-5);
    }
  }
}

TEST_P(RowOperations, AddRmsNormIsTheNormOfTheSumItKeeps) {
  for (const Shape& shape : {Shape{37, 2048}, Shape{300, 33}}) {
    const OwnedTensor x = draw(shape, "x", {0.2, 3.0}), delta = draw(shape, "delta"),
                      w = draw({shape[1]}, "w", {1.0, 0.2});
    const OwnedTensor on_x = moved(*x), on_delta = moved(*delta), on_w = moved(*w),
                      y = poisoned(shape, dtype()), inv_rms = poisoned({shape[0]}, wide_dtype());
    add_rms_norm_forward(*on_x, *on_delta, *on_w, 1e-5, *on_x, *y, *inv_rms, stream());
    const OwnedTensor sum = fetched(*on_x), x64 = f64(x), delta64 = f64(delta);
    add(*delta64, *x64, cpu_);
    EXPECT_LE(relative_error(*sum, *x64), tolerance());
    const OwnedTensor y64 = poisoned64(shape), inv_rms64 = poisoned64({shape[0]});
    rms_norm_forward(*sum, *f64(w), 1e-5, *y64, *inv_rms64, cpu_);
    expect_near(y, y64, tolerance());
    expect_near(inv_rms, inv_rms64, 1e-5);
  }
}

TEST_P(RowOperations, Rotary) {
  for (const Shape& shape : {Shape{70, 3, 128}, Shape{33, 2, 6}}) {
    const RotaryPositions positions{.sequence_length = 32, .first_position = 4000, .theta = 1e4};
    const OwnedTensor x = draw(shape, "x");
    const OwnedTensor x64 = f64(x), on_x = moved(*x);
    rotary_forward(positions, *x64, cpu_);
    rotary_forward(positions, *on_x, stream());
    expect_near(on_x, x64, tolerance());
    rotary_backward(positions, *on_x, stream());
    expect_near(on_x, f64(x), tolerance());
  }
}

TEST_P(RowOperations, Embedding) {
  for (const std::int64_t width : {64, 33}) {
    constexpr std::int64_t rows = 1000, vocab = 5003;
    std::vector<double> ids(rows);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids[i] = i % 3 == 0 ? 7 : static_cast<double>(i * i * 31 % vocab);  // one is frequent
    }
    const OwnedTensor tokens = test::tensor_of({rows}, DType::i32, ids);
    const OwnedTensor table = draw({vocab, width}, "table"), d_y = draw({rows, width}, "d_y");
    const OwnedTensor d_table = draw_wide({vocab, width}, "d_table");
    const OwnedTensor y64 = poisoned64({rows, width}), d_table64 = f64(d_table);
    embedding_forward(*tokens, *f64(table), *y64, cpu_);
    embedding_backward(*tokens, *f64(d_y), *d_table64, cpu_arena_, cpu_);
    const OwnedTensor on_tokens = moved(*tokens), on_d_table = moved(*d_table),
                      y = poisoned({rows, width}, dtype());
    embedding_forward(*on_tokens, *moved(*table), *y, stream());
    embedding_backward(*on_tokens, *moved(*d_y), *on_d_table, arena(), stream());
    expect_near(y, y64, 0.0);
    expect_near(on_d_table, d_table64, 1e-5);
  }
}

TEST_P(RowOperations, Reductions) {
  for (const std::int64_t count : {0, 1, 5000, 100003}) {
    const OwnedTensor x = draw({count}, "x", {0.5, 1.0}), y = draw({count}, "y");
    const OwnedTensor x64 = f64(x), y64 = f64(y), result64 = poisoned64({1});
    const OwnedTensor on_x = moved(*x), on_y = moved(*y), result = poisoned({1}, DType::f64);
    sum(*x64, *result64, cpu_arena_, cpu_);
    sum(*on_x, *result, arena(), stream());
    expect_near(result, result64, 1e-12);
    sum_of_squares(*x64, *result64, cpu_arena_, cpu_);
    sum_of_squares(*on_x, *result, arena(), stream());
    expect_near(result, result64, 1e-12);
    add(*x64, *y64, cpu_);
    add(*on_x, *on_y, stream());
    expect_near(on_y, y64, tolerance());
    fill(1.5, *on_y, stream());
    fill(1.5, *y64, cpu_);
    expect_near(on_y, y64, 0.0);
  }
}

// The same bits again, whatever the order in which blocks ran.
TEST_P(RowOperations, SumsRepeatTheirBits) {
  const Shape shape{3000, 264};
  const OwnedTensor x = moved(*draw(shape, "x")), d_y = moved(*draw(shape, "g")),
                    w = moved(*draw({264}, "w")), d_x(shape, dtype(), device()),
                    inv_rms = moved(*draw_wide({3000}, "r"));
  OwnedTensor first;
  for (int run = 0; run < 3; ++run) {
    OwnedTensor d_w({264}, wide_dtype(), device());
    rms_norm_backward(*d_y, *x, *inv_rms, *w, Write::overwrite, *d_x, *d_w, arena(), stream());
    OwnedTensor result = fetched(*d_w);
    if (run > 0) {
      EXPECT_TRUE(test::bitwise_equal(*result, *first));
    }
    first = std::move(result);
  }
}

}  // namespace
}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
// Weights' gradients in bf16: every operation adds what it adds to f32 ones, and rounds once.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/embedding/embedding.h"
#include "kernels/matmul/matmul.h"
#include "kernels/output_loss/output_loss.h"
#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rotary/norm_rotary.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::converted;
using test::random_tensor;
using test::relative_error;

class NarrowGradients : public test::OnDevice {
 protected:
  struct Results {
    OwnedTensor narrow, wide;  // f64 on the host; the wide one rounded to bf16
  };

  /// What `add_to` makes of a gradient in bf16, and of one in f32 that starts from the same values.
  Results both(const Shape& shape, double start,
               const std::function<void(const Tensor& gradient)>& add_to) {
    const OwnedTensor first = random_tensor(shape, DType::bf16, "gradient", {0.0, start});
    const OwnedTensor narrow = moved(*first, DType::bf16), wide = moved(*first, DType::f32);
    add_to(*narrow);
    add_to(*wide);
    return {fetched(*narrow), converted(*converted(*fetched(*wide), DType::bf16), DType::f64)};
  }
  OwnedTensor here(const Shape& shape, const char* name, test::Normal distribution = {}) {
    return moved(*random_tensor(shape, dtype(), name, distribution));
  }
  /// Beside tensors in f32 a gradient in bf16 is refused: nothing else is to be tested.
  bool refuses(const char* message, const std::function<void(const Tensor& gradient)>& add_to,
               const Shape& shape) {
    if (dtype() == DType::bf16) return false;
    const OwnedTensor narrow(shape, DType::bf16, device());
    EXPECT_EQ(test::message_of<InvalidArgument>([&] { add_to(*narrow); }), message);
    return true;
  }
};
INSTANTIATE_TEST_SUITE_P(All, NarrowGradients, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(NarrowGradients, OfARmsNorm) {
  for (const Shape& shape : {Shape{37, 2048}, Shape{300, 33}, Shape{5, 8200}}) {
    SCOPED_TRACE(to_string(shape));
    const OwnedTensor x = here(shape, "x", {0.2, 3.0}), d_y = here(shape, "d_y"),
                      w = here({shape[1]}, "w", {1.0, 0.2}), d_x = poisoned(shape, dtype()),
                      inv_rms = moved(*random_tensor({shape[0]}, wide_dtype(), "r", {0.3, 0.1}));
    const auto add_to = [&](const Tensor& gradient) {
      rms_norm_backward(*d_y, *x, *inv_rms, *w, Write::overwrite, *d_x, gradient, arena(),
                        stream());
    };
    if (refuses("rms_norm_backward: d_weight is bf16, expected f32", add_to, {shape[1]})) continue;
    const Results results = both({shape[1]}, 1.0, add_to);
    EXPECT_TRUE(bitwise_equal(*results.narrow, *results.wide));
  }
}

TEST_P(NarrowGradients, OfANormWithRotation) {
  const RotaryPositions positions{.sequence_length = 16, .first_position = 0, .theta = 1e4};
  for (const Shape& shape : {Shape{77, 16, 128}, Shape{77, 5, 6}}) {
    SCOPED_TRACE(to_string(shape));
    const std::int64_t width = shape[1] * shape[2];
    const OwnedTensor x = here(shape, "x", {0.2, 3.0}), d_y = here(shape, "d_y"),
                      w = here({width}, "w", {1.0, 0.2}), d_x = poisoned(shape, dtype()),
                      inv_rms = moved(*random_tensor({shape[0]}, wide_dtype(), "r", {0.3, 0.1}));
    const auto add_to = [&](const Tensor& gradient) {
      norm_rotary_backward(positions, *d_y, *x, *inv_rms, *w, *d_x, gradient, arena(), stream());
    };
    if (refuses("norm_rotary_backward: d_weight is bf16, expected f32", add_to, {width})) continue;
    const Results results = both({width}, 1.0, add_to);
    EXPECT_TRUE(bitwise_equal(*results.narrow, *results.wide));
  }
}

// One token is frequent: its rows fill several windows.
TEST_P(NarrowGradients, OfAnEmbedding) {
  constexpr std::int64_t rows = 1000, vocab = 503;
  std::vector<double> ids(rows);
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = i % 3 == 0 ? 7 : static_cast<double>(i * i * 31 % vocab);
  const OwnedTensor tokens = moved(*test::tensor_of({rows}, DType::i32, ids));
  for (const std::int64_t width : {64, 33}) {
    SCOPED_TRACE(width);
    const OwnedTensor d_y = here({rows, width}, "d_y");
    const auto add_to = [&](const Tensor& gradient) {
      embedding_backward(*tokens, *d_y, gradient, arena(), stream());
    };
    const Shape table{vocab, width};
    if (device().type == DeviceType::cpu) {
      EXPECT_THROW(add_to(*OwnedTensor(table, DType::bf16, device())), InvalidArgument);
      continue;
    }
    if (refuses("embedding_backward: d_table is bf16, expected f32", add_to, table)) continue;
    const Results results = both(table, 1.0, add_to);
    EXPECT_TRUE(bitwise_equal(*results.narrow, *results.wide));
    EXPECT_GT(
        relative_error(*results.narrow,
                       *converted(*random_tensor(table, DType::bf16, "gradient"), DType::f64)),
        0.5);
  }
}

// cuBLASLt may round a product before it adds it: on a grid of 2^-8 a second rounding moves every
// fourth sum or so by a step.
TEST_P(NarrowGradients, OfALinearLayer) {
  const Shape shape{192, 320};
  const OwnedTensor d_y = here({1000, shape[0]}, "d_y"), x = here({1000, shape[1]}, "x");
  const auto add_to = [&](const Tensor& gradient) {
    matmul(*d_y, Transpose::yes, *x, Transpose::no, Write::accumulate, gradient, stream());
  };
  if (refuses("matmul: c is bf16, expected f32", add_to, shape)) return;
  const Results results = both(shape, 10.0, add_to);
  EXPECT_LE(relative_error(*results.narrow, *results.wide), 4e-3);
}

// Several chunks of rows, whose sum is rounded once: three roundings would be off by 1e-3 and more.
TEST_P(NarrowGradients, OfAnOutputInChunks) {
  if (device().type == DeviceType::cpu) return;
  const std::int64_t rows = 8900, hidden = 8, vocab = 50304;
  Arena scratch({.device = device(), .capacity = std::size_t{3} << 29});
  std::vector<double> ids(rows);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<double>(i % 11);
  const OwnedTensor x = here({rows, hidden}, "x"), weight = here({vocab, hidden}, "w", {0.0, 0.1}),
                    targets = moved(*test::tensor_of({rows}, DType::i32, ids)),
                    d_x = poisoned({rows, hidden}, dtype()), loss = poisoned({rows}, wide_dtype());
  const auto add_to = [&](const Tensor& gradient) {
    output_loss_forward_backward(*x, *weight, *targets, 0.5, *loss, *d_x, gradient, scratch,
                                 stream());
  };
  const Shape table{vocab, hidden};
  if (refuses("output_loss_forward_backward: d_weight is bf16, expected f32", add_to, table))
    return;
  const Results results = both(table, 0.0, add_to);
  EXPECT_LE(relative_error(*results.narrow, *results.wide), 3e-4);
}

TEST_P(NarrowGradients, AreTheF32SumToTheNearest) {
  for (const std::int64_t count : {1, 7, 4096, 100003}) {
    const OwnedTensor sum = moved(*random_tensor({count}, wide_dtype(), "sum"));
    const auto add_to = [&](const Tensor& gradient) { add(*sum, gradient, stream()); };
    if (device().type == DeviceType::cpu) {
      if (refuses("add: y is bf16, expected f32", add_to, {count})) continue;
    }
    const Results results = both({count}, 1.0, add_to);
    EXPECT_TRUE(bitwise_equal(*results.narrow, *results.wide)) << count;
  }
}

// The sum of several chunks is f32 scratch of the weight's size.
TEST(NarrowGradientsOnMeta, OfAnOutputInChunksArePlanned) {
  constexpr Device meta = Device::meta(DeviceType::cuda);
  Stream stream(meta);
  const auto planned = [&](std::int64_t rows, DType gradient) {
    Arena scratch({.device = meta});
    const OwnedTensor x({rows, 64}, DType::bf16, meta), weight({50304, 64}, DType::bf16, meta),
        targets({rows}, DType::i32, meta), loss({rows}, DType::f32, meta),
        d_weight({50304, 64}, gradient, meta);
    output_loss_forward_backward(*x, *weight, *targets, 1.0, *loss, *x, *d_weight, scratch, stream);
    return scratch.high_water();
  };
  EXPECT_EQ(planned(4096, DType::bf16), planned(4096, DType::f32));
  EXPECT_EQ(planned(16384, DType::bf16), planned(16384, DType::f32) + 50304U * 64U * 4U);
}

}  // namespace
}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#include "runtime/tensor.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "runtime/buffer.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

TEST(Shape, CountsAndCompares) {
  EXPECT_EQ(Shape{}.elements(), 1);
  EXPECT_EQ((Shape{3, 0, 5}).elements(), 0);
  EXPECT_EQ((Shape{2, 3, 4}).elements(), 24);
  EXPECT_EQ((Shape{2, 3}).with_first(7), (Shape{7, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{2, 3, 1}));
  EXPECT_EQ(to_string(Shape{128, 64}), "[128, 64]");
  EXPECT_THROW((Shape{1, -1}), InvalidArgument);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1}), InvalidArgument);
}

TEST(Tensor, ViewsAndRowsShareMemory) {
  const OwnedTensor owned({4, 3}, DType::f32, Device::cpu());
  float* data = owned->data<float>();
  for (int i = 0; i < 12; ++i) EXPECT_EQ(data[i], 0.0f);
  data[7] = 2.0f;
  EXPECT_EQ(owned->view({12}).data<float>()[7], 2.0f);
  const Tensor rows = owned->rows(2, 4);
  EXPECT_EQ(rows.shape(), (Shape{2, 3}));
  EXPECT_EQ(rows.data<float>()[1], 2.0f);
  EXPECT_EQ(owned->rows(4, 4).elements(), 0);
  EXPECT_EQ(owned->bytes(), 48u);
  EXPECT_THROW(owned->view({5}), InvalidArgument);
  EXPECT_FALSE(Tensor().defined());
}

TEST(Tensor, OfNoRowsAndOnMetaHaveShapesWithoutMemory) {
  const OwnedTensor empty({0, 3}, DType::f64, Device::cpu());
  EXPECT_EQ(empty->rows(0, 0).shape(), (Shape{0, 3}));
  const OwnedTensor meta({1 << 20, 1 << 20}, DType::f64, Device::meta());
  EXPECT_EQ(meta->raw(), nullptr);
  EXPECT_EQ(meta->bytes(), std::size_t{1} << 43);
  EXPECT_EQ(meta->rows(5, 10).dim(0), 5);
}

TEST(Buffer, MovesOwnershipAndChecksViews) {
  Buffer first(64, Device::cpu());
  void* memory = first.data();
  Buffer second(std::move(first));
  EXPECT_EQ(second.data(), memory);
  EXPECT_NO_THROW(second.tensor({8}, DType::f32, 32));
  EXPECT_THROW(second.tensor({9}, DType::f32, 32), InvalidArgument);
  EXPECT_THROW(second.tensor({0}, DType::f32, 65), InvalidArgument);
  EXPECT_THROW(Buffer(64, Device{DeviceType::cuda, 0}), DeviceError);
}

}  // namespace
}  // namespace polymoe

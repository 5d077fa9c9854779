// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/packed.h"

#include <gtest/gtest.h>

#include "runtime/error.h"

namespace polymoe {
namespace {

TEST(PackedTest, ComesBackInOrder) {
  const std::string bytes =
      Packer().number(-7).text("").text(std::string("a\0b", 3)).number(INT64_MAX).take();
  Unpacker unpacker(bytes);
  EXPECT_EQ(unpacker.number(), -7);
  EXPECT_EQ(unpacker.text(), "");
  EXPECT_EQ(unpacker.text(), std::string("a\0b", 3));
  EXPECT_FALSE(unpacker.done());
  EXPECT_EQ(unpacker.number(), INT64_MAX);
  EXPECT_TRUE(unpacker.done());
}

TEST(PackedTest, NothingIsReadBeyondTheEnd) {
  const std::string bytes = Packer().text("abc").take();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Unpacker unpacker(std::string_view(bytes).substr(0, size));
    EXPECT_THROW(unpacker.text(), CommunicationError) << size;
  }
  const std::string negative = Packer().number(-1).take();
  EXPECT_THROW(Unpacker(negative).text(), CommunicationError);
}

}  // namespace
}  // namespace polymoe

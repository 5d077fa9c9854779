// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/tensorboard_writer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/crc32c.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
TEST(Crc32c, GivesTheKnownAnswers) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) {
    rising += static_cast<char>(i);
    falling += static_cast<char>(31 - i);
  }
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
  EXPECT_EQ(crc32c(falling), 0x113FDB5Cu);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(TensorBoardWriter, WritesTheBytesOfAnIndependentProgram) {
  test::TemporaryDirectory directory;
  const double start = 1700000000.25;
  TensorBoardWriter writer(directory.path() / "events", 40, start);
  EXPECT_TRUE(writer.path().filename().string().starts_with("events.out.tfevents.1700000000."));
  writer.add_scalars(
      41, start + 1,
      std::vector<TensorBoardWriter::Scalar>{{"train/loss", 8.375f}, {"train/lr", 4e-4f}});
  writer.add_scalars(100000, start + 2,
                     std::vector<TensorBoardWriter::Scalar>{
                         {"moe/" + std::string(200, 'x'), std::numeric_limits<float>::infinity()}});
  const std::filesystem::path fixtures = POLYMOE_FIXTURES;
  EXPECT_EQ(test::read_bytes(writer.path()), test::read_bytes(fixtures / "tensorboard.tfevents"));
}

TEST(TensorBoardWriter, NamesTheDirectoryThatCannotBeMade) {
  test::TemporaryDirectory directory;
  test::write_bytes(directory.path() / "file", "");
  const std::string message = test::message_of<OutputFileError>(
      [&] { TensorBoardWriter(directory.path() / "file" / "events", 0, 0.0); });
  EXPECT_NE(message.find("events"), std::string::npos);
}

}  // namespace
}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/byte_source.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::write_bytes;

constexpr const char* text = "one line\nanother line\n";

std::string bytes_of(const char* digits) {
  std::string bytes;
  for (; *digits != 0; digits += 2)
    bytes += static_cast<char>(std::stoi(std::string(digits, 2), nullptr, 16));
  return bytes;
}

struct Packed {
  const char* name;
  const char* digits;  // of the text, as gzip, zstd -c and xz write it
};
const Packed forms[] = {
    {"gzip", "1f8b0800000000000203cbcf4b55c8c9cc4be54acccb2fc9482d827000e8123b7a16000000"},
    {"Zstandard", "28b52ffd0458b100006f6e65206c696e650a616e6f74686572206c696e650ad321dab2"},
    {"xz",
     "fd377a585a000004e6d6b4460200210116000000742fe5a30100156f6e65206c696e650a616e6f74686572206c69"
     "6e650a000000b2bd77742bedf69900012e16560955df1fb6f37d010000000004595a"}};

class ByteSourceTest : public testing::Test {
 protected:
  std::string read(const std::string& bytes, std::size_t at_a_time) const {
    write_bytes(path(), bytes);
    const auto source = open_byte_source(path());
    std::string all, block(at_a_time, '\0');
    while (const std::size_t got = source->read(block.data(), block.size()))
      all.append(block, 0, got);
    EXPECT_EQ(source->consumed(), static_cast<std::int64_t>(bytes.size()));
    return all;
  }
  std::filesystem::path path() const { return directory_.path() / "input"; }
  test::TemporaryDirectory directory_;
};

TEST_F(ByteSourceTest, GivesPlainAndPackedBytesInAnySteps) {
  for (const std::size_t step : {1, 7, 1000}) {
    EXPECT_EQ(read(text, step), text);
    EXPECT_EQ(read("", step), "");
    for (const Packed& form : forms) {
      const std::string packed = bytes_of(form.digits);
      EXPECT_EQ(read(packed, step), text) << form.name;
      EXPECT_EQ(read(packed + packed, step), std::string(text) + text) << form.name;
    }
  }
}

TEST_F(ByteSourceTest, NamesWhatIsDamagedOrCutOff) {
  for (const Packed& form : forms) {
    const std::string packed = bytes_of(form.digits);
    // What is cut within the first bytes is not known as packed.
    for (std::size_t size = 8; size < packed.size(); ++size) {
      const std::string message =
          message_of<InputFileError>([&] { read(packed.substr(0, size), 1000); });
      EXPECT_NE(message.find("input: "), std::string::npos) << form.name << " " << size;
    }
    std::string damaged = packed;
    damaged[packed.size() - 6] = static_cast<char>(damaged[packed.size() - 6] ^ 1);
    const std::string message = message_of<InputFileError>([&] { read(damaged, 1000); });
    EXPECT_NE(message.find("is damaged " + std::string(form.name)), std::string::npos) << message;
  }
  EXPECT_THROW(open_byte_source(directory_.path() / "absent"), InputFileError);
  EXPECT_THROW(open_byte_source(directory_.path()), InputFileError);
}

}  // namespace
}  // namespace polymoe

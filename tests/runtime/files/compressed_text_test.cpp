// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/compressed_text.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;

// What `printf 'one\ntwo\n' | gzip -n` and `... | zstd` print.
const std::string gzip(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\xcf\x4b\xe5\x2a\x29\xcf\xe7\x02\x00\xe6\x0b\xba"
    "\x12\x08\x00\x00\x00",
    28);
const std::string zstd(
    "\x28\xb5\x2f\xfd\x04\x58\x41\x00\x00\x6f\x6e\x65\x0a\x74\x77\x6f\x0a\xe6\xa6\x0e\x40", 21);

class CompressedTextTest : public testing::Test {
 protected:
  std::string read(const std::string& content, std::int64_t max_bytes = 1 << 20) {
    const auto path = directory_.path() / "file";
    test::write_bytes(path, content);
    return read_compressed_file(path, max_bytes);
  }
  test::TemporaryDirectory directory_;
};

TEST_F(CompressedTextTest, KnowsThePackingByTheFirstBytes) {
  EXPECT_EQ(read("one\ntwo\n"), "one\ntwo\n");
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read(gzip), "one\ntwo\n");
  EXPECT_EQ(read(zstd), "one\ntwo\n");
  // Several of them, one after the other.
  EXPECT_EQ(read(gzip + gzip), "one\ntwo\none\ntwo\n");
  EXPECT_EQ(read(zstd + zstd), "one\ntwo\none\ntwo\n");
}

TEST_F(CompressedTextTest, RefusesWhatIsDamagedCutOffOrTooLarge) {
  for (const std::string& packed : {gzip, zstd}) {
    std::string damaged = packed;
    damaged[packed.size() - 3] ^= 0x40;
    EXPECT_THROW(read(damaged), InputFileError);
    for (const std::size_t kept : {packed.size() - 1, packed.size() / 2, std::size_t{5}}) {
      const std::string message = message_of<InputFileError>([&] { read(packed.substr(0, kept)); });
      EXPECT_NE(message.find("ends too early"), std::string::npos) << message;
    }
    EXPECT_THROW(read(packed, 7), InputFileError);
  }
}

}  // namespace
}  // namespace polymoe

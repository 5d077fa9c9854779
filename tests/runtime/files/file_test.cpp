// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::TemporaryDirectory;

TEST(File, ReadsWholeFilesWithinABound) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a";
  const std::string content("one\0two", 7);
  test::write_bytes(path, content);
  EXPECT_EQ(read_file(path, 7), content);
  EXPECT_EQ(size_of_file(path), 7);
  EXPECT_NE(message_of<InputFileError>([&] { read_file(path, 6); }).find("at most 6"),
            std::string::npos);
  EXPECT_THROW(read_file(directory.path(), 100), InputFileError);
  EXPECT_THROW(read_file(directory.path() / "none", 100), InputFileError);
  EXPECT_THROW(size_of_file("/dev/zero"), InputFileError);
}

TEST(File, ReadsAtAnyPlaceWithinTheFile) {
  TemporaryDirectory directory;
  test::write_bytes(directory.path() / "a", "content");
  const InputFile file(directory.path() / "a");
  std::string bytes(4, ' ');
  file.read(3, bytes.data(), 4);
  EXPECT_EQ(bytes, "tent");
  file.read(0, bytes.data(), 2);
  EXPECT_EQ(bytes, "cont");
  file.read(7, bytes.data(), 0);
  EXPECT_NE(message_of<InputFileError>([&] { file.read(4, bytes.data(), 4); }).find("byte 7"),
            std::string::npos);
  EXPECT_THROW(file.read(100, bytes.data(), 1), InputFileError);
  EXPECT_THROW(InputFile(directory.path()), InputFileError);
  EXPECT_THROW(InputFile(directory.path() / "none"), InputFileError);
}

TEST(File, MapsAndMoves) {
  TemporaryDirectory directory;
  test::write_bytes(directory.path() / "a", "content");
  test::write_bytes(directory.path() / "empty", "");
  MappedFile file(directory.path() / "a");
  MappedFile moved(std::move(file));
  ASSERT_EQ(moved.bytes(), 7);
  EXPECT_EQ(static_cast<char>(moved.data()[6]), 't');
  moved = MappedFile(directory.path() / "empty");
  EXPECT_EQ(moved.bytes(), 0);
  EXPECT_THROW(MappedFile(directory.path() / "none"), InputFileError);
}

TEST(File, WritesThroughItsBufferInOrder) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a";
  std::string expected;
  {
    OutputFile file(path);
    for (int i = 0; i < 300; ++i) {
      const std::string part(static_cast<std::size_t>(i * 97 % 9000),
                             static_cast<char>('a' + i % 26));
      file.write(part);
      expected += part;
    }
    const std::string large(3'000'000, 'L');
    file.write(large);
    file.write("end");
    expected += large + "end";
    file.sync();
    EXPECT_EQ(test::read_bytes(path), expected);
    file.close();
  }
  OutputFile more(path, OutputFile::Mode::append);
  more.write("more");
  more.close();
  EXPECT_EQ(test::read_bytes(path), expected + "more");
}

TEST(File, AFullDiskIsAnErrorWithThePath) {
  OutputFile file("/dev/full");
  file.write("x");
  const std::string message = message_of<OutputFileError>([&] { file.close(); });
  EXPECT_TRUE(message.starts_with("/dev/full: cannot write: ")) << message;
}

TEST(File, ReplacesInOneStepOrNotAtAll) {
  TemporaryDirectory directory;
  const auto path = directory.path() / "a";
  replace_file(path, "old");
  replace_file(path, "new");
  EXPECT_EQ(test::read_bytes(path), "new");
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "a.partial"));
  std::filesystem::create_directories(directory.path() / "folder" / "inside");
  EXPECT_THROW(replace_file(directory.path() / "folder", "x"), OutputFileError);
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "folder.partial"));
  EXPECT_THROW(make_directories(path / "below"), OutputFileError);
  EXPECT_THROW(sync_directory(path), OutputFileError);
}

}  // namespace
}  // namespace polymoe

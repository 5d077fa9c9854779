// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_directory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "runtime/error.h"
#include "runtime/system.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(RunDirectoryTest, IsCreatedAndHeldByOneRun) {
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "a" / "run";
  {
    const RunDirectory first(path);
    EXPECT_TRUE(std::filesystem::is_directory(path / "checkpoints"));
    const std::string message =
        test::message_of<InvalidArgument>([&] { const RunDirectory second(path); });
    EXPECT_NE(message.find("run.dir = " + path.string()), std::string::npos) << message;
    EXPECT_NE(message.find("process " + std::to_string(getpid()) + " on " + host_name()),
              std::string::npos)
        << message;
  }
  const RunDirectory again(path);  // free once its holder has gone
  EXPECT_EQ(again.path(), path);
}

TEST(RunDirectoryTest, RefusesWhatCannotBeWritten) {
  const test::TemporaryDirectory temporary;
  test::write_bytes(temporary.path() / "file", "");
  EXPECT_THROW(RunDirectory(temporary.path() / "file"), OutputFileError);
  EXPECT_THROW(RunDirectory(temporary.path() / "file" / "run"), OutputFileError);
  test::write_bytes(temporary.path() / "checkpoints", "");
  EXPECT_THROW(RunDirectory{temporary.path()}, OutputFileError);
}

}  // namespace
}  // namespace polymoe

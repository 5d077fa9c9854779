// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_directory.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/error.h"
#include "runtime/system.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(RunDirectoryTest, IsCreatedAndHeldByOneRun) {
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "a" / "run";
  {
    RunDirectory first(path);
    first.begin();
    EXPECT_TRUE(std::filesystem::is_directory(path / "checkpoints"));
    EXPECT_EQ(first.warning(), "");
    const std::string message =
        test::message_of<InvalidArgument>([&] { const RunDirectory second(path); });
    EXPECT_NE(message.find("run.dir = " + path.string()), std::string::npos) << message;
    EXPECT_NE(message.find("process " + std::to_string(getpid()) + " on " + host_name()),
              std::string::npos)
        << message;
  }
  RunDirectory again(path);  // free once its holder has gone
  EXPECT_EQ(again.path(), path);
}

TEST(RunDirectoryTest, ALockOfAnotherMachineMayEnd) {
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "run";
  const RunDirectory first(path);
  test::write_bytes(path / "lock", "process 12 on elsewhere\n");
  const std::string message =
      test::message_of<CommunicationError>([&] { const RunDirectory second(path); });
  EXPECT_NE(message.find("of another machine (process 12 on elsewhere)"), std::string::npos)
      << message;
}

TEST(RunDirectoryTest, NoticesThatItWasMovedAway) {
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "run";
  const RunDirectory directory(path);
  EXPECT_NO_THROW(directory.check_in_place());
  std::filesystem::rename(path, temporary.path() / "moved");
  EXPECT_THROW(directory.check_in_place(), OutputFileError);
  const RunDirectory other(path);  // another run in its place
  EXPECT_THROW(directory.check_in_place(), OutputFileError);
}

}  // namespace

/// flock as a file system without locks answers it.
class WithoutLocks : public testing::Test {
 protected:
  WithoutLocks() { answer = ENOSYS; }
  ~WithoutLocks() override { answer = 0; }

 public:
  static inline int answer = 0;
};

namespace {

TEST_F(WithoutLocks, ADirectoryIsUsedWithAWarning) {
  const test::TemporaryDirectory temporary;
  const RunDirectory directory(temporary.path() / "run");
  EXPECT_NE(directory.warning().find("no locks"), std::string::npos) << directory.warning();
  answer = EIO;
  EXPECT_THROW(RunDirectory(temporary.path() / "other"), OutputFileError);
}

TEST(RunDirectoryTest, OfARunThatDoesNotBeginNothingIsLeft) {
  const test::TemporaryDirectory temporary;
  const auto path = temporary.path() / "run";
  { const RunDirectory refused(path); }
  EXPECT_FALSE(std::filesystem::exists(path));
  { RunDirectory(path).begin(); }
  EXPECT_TRUE(std::filesystem::exists(path / "lock"));
  { const RunDirectory refused(path); }  // it was there before
  EXPECT_TRUE(std::filesystem::exists(path / "lock"));
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

/// Stands before the C library's, for what this program calls.
extern "C" int flock(int descriptor, int operation) {
  if (polymoe::WithoutLocks::answer != 0) {
    errno = polymoe::WithoutLocks::answer;
    return -1;
  }
  return static_cast<int>(syscall(SYS_flock, descriptor, operation));
}

// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_outputs.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <string>

#include "parallel/communication/local/local_communicator.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

/// As a full disk: a file of this process cannot grow beyond so many bytes while it lives.
class FullDisk {
 public:
  explicit FullDisk(std::uintmax_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

class RunOutputsTest : public ::testing::Test {
 protected:
  RunOutputsTest() { config_.run.dir = (directory_.path() / "run").string(); }
  std::filesystem::path metrics() const { return directory_.path() / "run" / "metrics.jsonl"; }

  test::TemporaryDirectory directory_;
  Config config_;
  std::unique_ptr<Communicator> world_ = std::move(make_local_communicators(1).front());
};

TEST_F(RunOutputsTest, MetricsThatCannotBeWrittenAreToldAndTheRunGoesOn) {
  config_.checkpoint.on_error = SaveFailure::proceed;
  RunOutputs outputs(config_, *world_);
  outputs.open("{}", 0, *world_);
  outputs.report({.step = 1});
  testing::internal::CaptureStderr();
  {
    const FullDisk full(std::filesystem::file_size(metrics()) + 10);
    outputs.report({.step = 2});
    outputs.report({.step = 3});
  }
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_FALSE(outputs.failed());
  EXPECT_NE(told.find("metrics.jsonl"), std::string::npos) << told;
  EXPECT_NE(told.find("going on without metrics"), std::string::npos) << told;
  EXPECT_EQ(told.find("going on"), told.rfind("going on")) << told;
}

TEST_F(RunOutputsTest, WithStopTheFailureIsKeptForAllRanks) {
  RunOutputs outputs(config_, *world_);
  outputs.open("{}", 0, *world_);
  outputs.report({.step = 1});
  EXPECT_FALSE(outputs.failed());
  {
    const FullDisk full(std::filesystem::file_size(metrics()) + 10);
    outputs.report({.step = 2});
  }
  EXPECT_TRUE(outputs.failed());
  EXPECT_THROW(std::rethrow_exception(outputs.take_failure()), OutputFileError);
}

}  // namespace
}  // namespace polymoe

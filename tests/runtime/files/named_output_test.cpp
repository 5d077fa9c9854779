// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/named_output.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

TEST(NamedOutput, ReplacesFiles) {
  const test::TemporaryDirectory directory;
  const fs::path path = directory.path() / "a";
  check_named_output(path);
  EXPECT_FALSE(fs::exists(path));
  write_named_output(path, "old content");
  check_named_output(path);
  EXPECT_EQ(read_file(path, 100), "old content");
  write_named_output(path, "new");
  EXPECT_EQ(read_file(path, 100), "new");
}

TEST(NamedOutput, ReplacesFilesInSharedMemory) {
  const fs::path path = fmt::format("/dev/shm/polymoe-named-output-{}", ::getpid());
  ASSERT_TRUE(fs::exists(path.parent_path())) << "ranks of a node need it too";
  write_named_output(path, "old content");
  write_named_output(path, "new");
  EXPECT_EQ(read_file(path, 100), "new");
  fs::remove(path);
}

TEST(NamedOutput, LeavesDevicesAndPipesWhatTheyAre) {
  const test::TemporaryDirectory directory;
  // A link: were it replaced, no device of the machine would be.
  const fs::path full = directory.path() / "full";
  fs::create_symlink("/dev/full", full);
  check_named_output(full);
  EXPECT_NE(test::message_of<OutputFileError>([&] {
              write_named_output(full, "x");
            }).find(full.string() + ": cannot write"),
            std::string::npos);
  EXPECT_TRUE(fs::is_character_file(full));
  const fs::path pipe = directory.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  check_named_output(pipe);
  std::string read;
  std::thread reader([&] {
    std::ifstream stream(pipe);
    read.assign(std::istreambuf_iterator<char>(stream), {});
  });
  write_named_output(pipe, "content");
  reader.join();
  EXPECT_EQ(read, "content");
  EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST(NamedOutput, ChecksALinkThatPointsNowhereAndLeavesIt) {
  const test::TemporaryDirectory directory;
  const fs::path link = directory.path() / "link";
  const fs::path target = directory.path() / "target";
  fs::create_symlink(target, link);
  check_named_output(link);
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_FALSE(fs::exists(target));
}

TEST(NamedOutput, NeverReplacesAnInputOrAnotherOutput) {
  const test::TemporaryDirectory directory;
  const auto at = [&](const std::string& name) { return directory.path() / name; };
  test::write_bytes(at("input"), "content");
  fs::create_directory(at("folder"));
  fs::create_symlink(at("input"), at("link"));
  fs::create_symlink("folder/new", at("dangling"));
  fs::create_directory_symlink(at("folder"), at("other"));
  fs::create_hard_link(at("input"), at("hard"));
  const auto fault = [&](const std::string& output, const std::string& input) {
    return test::message_of<InvalidArgument>([&] {
      refuse_to_replace({{"--json", at(output)}}, {{"--tasks", at(input)}});
    });
  };
  for (const std::string name : {"input", "link", "hard", "other/../input", "./input"}) {
    EXPECT_EQ(fault(name, "input"), "--json " + at(name).string() +
                                        ": is what --tasks reads; another file must be named");
    EXPECT_NE(fault("input", name), "");
  }
  for (const std::string name : {"folder/new", "other/new", "folder/a/b", "dangling"})
    EXPECT_EQ(fault(name, "folder"), "--json " + at(name).string() + ": lies in " +
                                         at("folder").string() +
                                         ", which --tasks reads; another file must be named");
  refuse_to_replace({{"--json", at("folder-2")}, {"--items", at("input2")}},
                    {{"--tasks", at("folder")}, {"--tasks", at("input")}, {"--x", at("none")}});
  refuse_to_replace({{"--json", at("none")}}, {{"--tokenizer", at("none")}});
  for (const std::string name : {"new", "other/../new"})
    EXPECT_EQ(
        test::message_of<InvalidArgument>([&] {
          refuse_to_replace({{"--json", at("new")}, {"--items", at(name)}}, {});
        }),
        "--items " + at(name).string() + ": is where --json goes; another file must be named");
  refuse_to_replace({{"--json", "/dev/null"}, {"--items", "/dev/null"}}, {{"--x", "/dev/null"}});
}

TEST(NamedOutput, IsRefusedBeforeTheWorkWhereItCannotBeWritten) {
  const test::TemporaryDirectory directory;
  EXPECT_THROW(check_named_output(directory.path()), OutputFileError);
  EXPECT_THROW(check_named_output(directory.path() / "none" / "a"), OutputFileError);
}

}  // namespace
}  // namespace polymoe

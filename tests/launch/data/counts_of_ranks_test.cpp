// SPDX-License-Identifier: Apache-2.0
// How the ranks of a run come to the window counts of their files.
#include "launch/data/counts_of_ranks.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/training_data.h"
#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "runtime/files/token_file.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::message_of;

constexpr std::int64_t context = 64;

class CountsOfRanks : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }

  /// Documents of 1 to 23 tokens.
  std::string tokens(const std::string& name, std::int64_t documents) const {
    MegatronWriter writer(path(name), 1000, false);
    for (std::int64_t i = 0; i < documents; ++i) {
      const auto length = static_cast<std::size_t>(1 + i * i % 23);
      writer.append(std::vector<std::int32_t>(length, 7), {});
      writer.end_document();
    }
    writer.finish();
    return path(name) + ".bin";
  }

  /// What each of three ranks throws; none may be left behind by it.
  static std::array<std::string, 3> refusals(const std::function<void(Communicator&)>& body) {
    std::array<std::string, 3> messages;
    run_ranks(3, [&](std::unique_ptr<Communicator> world) {
      messages[static_cast<std::size_t>(world->rank())] =
          message_of<InputFileError>([&] { body(*world); });
      world->barrier();
    });
    return messages;
  }

  test::TemporaryDirectory directory_;
};

TEST_F(CountsOfRanks, AreThoseOfTheWholeFilesOnEveryRank) {
  const std::vector<std::string> paths = {tokens("kept", 5000), tokens("large", 20000),
                                          tokens("small", 3), tokens("foreign", 9000)};
  const auto counted = [](const std::string& name) {
    return count_windows(TokenFile::open(name, 2), {&context, 1}).front();
  };
  // What is kept is taken as it is: so it shows who counted.
  WindowCounts kept = counted(paths[0]);
  ++kept.rows;
  write_window_counts(window_counts_path(paths[0]), TokenFile::open(paths[0], 2), {&kept, 1});
  test::write_bytes(window_counts_path(paths[3]), "damaged");
  for (const int ranks : {1, 2, 4}) {
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      const auto found = window_counts_of_ranks(paths, 2, context, {}, *world);
      ASSERT_EQ(found.size(), 4U);
      EXPECT_EQ(found.at(paths[0]).counts, kept);
      EXPECT_EQ(found.at(paths[0]).from, window_counts_path(paths[0]));
      for (const std::string& name : {paths[1], paths[2], paths[3]}) {
        EXPECT_EQ(found.at(name).counts, counted(name)) << name;
        EXPECT_TRUE(found.at(name).from.empty()) << name;
      }
      EXPECT_EQ(found.at(paths[1]).warning, "");
      const std::string& warning = found.at(paths[3]).warning;
      EXPECT_NE(warning.find("counted anew"), std::string::npos) << warning;
    });
  }
}

TEST_F(CountsOfRanks, WhatOneRankCannotReadEndsEveryRank) {
  const std::string there = tokens("there", 9000), other = tokens("other", 9001);
  for (const std::string& text : refusals([&](Communicator& world) {
         const std::string absent = path("absent.bin");
         window_counts_of_ranks({there, world.rank() == 2 ? absent : there}, 2, context, {}, world);
       }))
    EXPECT_NE(text.find("absent"), std::string::npos) << text;
  for (const std::string& text : refusals([&](Communicator& world) {
         window_counts_of_ranks({world.rank() == 1 ? other : there}, 2, context, {}, world);
       }))
    EXPECT_NE(text.find("there.bin: has 9001 documents where rank 1 runs, 9000 where rank 0 does"),
              std::string::npos)
        << text;
}

Config config_of(const std::string& file, const std::string& run) {
  Config config;
  config.data.train = {{.path = file, .weight = {}}};
  config.data.packing = Packing::documents;
  config.model.context = context;
  config.model.vocab = 1000;
  config.run.dir = run;
  return config;
}

TEST_F(CountsOfRanks, TheFirstStartCountsAForeignFileAndTheNextOneReadsThat) {
  const std::string file = tokens("foreign", least_kept_documents);
  const Config config = config_of(file, path("run"));
  for (const bool first : {true, false}) {
    SCOPED_TRACE(first);
    run_ranks(2, [&](std::unique_ptr<Communicator> world) {
      const TrainingData data(config, *world);
      const WindowCounts counts = count_windows(TokenFile::open(file, 2), {&context, 1}).front();
      std::int64_t windows = 0;
      for (const std::int64_t of_block : counts.windows) windows += of_block;
      EXPECT_EQ(data.train().windows(0), windows);
      if (world->rank() != 0) return;
      const std::vector<std::string> table = data.table();
      EXPECT_EQ(table.back().find("windows counted, and kept") != std::string::npos, first)
          << table.back();
      EXPECT_EQ(data.warnings(), std::vector<std::string>());
    });
    EXPECT_EQ(std::distance(fs::directory_iterator(path("run/windows")), {}), 1);
  }
}

TEST_F(CountsOfRanks, ATrainingFileThatOneRankLacksEndsEveryRank) {
  const std::string file = tokens("a", 100);
  for (const Packing packing : {Packing::documents, Packing::stream})
    for (const std::string& text : refusals([&](Communicator& world) {
           Config config = config_of(world.rank() == 1 ? path("absent.bin") : file, path("run"));
           config.data.packing = packing;
           const TrainingData data(config, world);
         }))
      EXPECT_NE(text.find("absent"), std::string::npos) << text;
  for (const std::string& text : refusals([&](Communicator& world) {
         Config config = config_of(file, path("run"));
         config.data.valid = {
             {.path = world.rank() == 2 ? path("absent.bin") : file, .weight = {}}};
         const TrainingData data(config, world);
       }))
    EXPECT_NE(text.find("absent"), std::string::npos) << text;
}

}  // namespace
}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
// Checkpoints written when each format version was the newest still load, value for value.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "runtime/error.h"
#include "runtime/files/hash.h"
#include "runtime/files/json.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

class CheckpointVersions : public testing::TestWithParam<int> {
 protected:
  fs::path golden() const {
    return fs::path(POLYMOE_FIXTURES) / ("checkpoint-v" + std::to_string(GetParam()));
  }
};

TEST_P(CheckpointVersions, StillLoads) {
  const CheckpointReader reader(golden());
  reader.verify_hashes();
  const Json expected = parse_json(test::read_bytes(golden().string() + ".json"), "expected");
  EXPECT_EQ(reader.manifest().version, GetParam());
  EXPECT_EQ(reader.manifest().version, expected.at("version").as_integer());
  EXPECT_EQ(reader.info().step, expected.at("step").as_integer());
  EXPECT_EQ(reader.info().ranks, 2);
  EXPECT_EQ(reader.info().expert_parallel, 2);
  const auto& tensors = expected.at("tensors").members();
  ASSERT_EQ(reader.manifest().tensors.size(), tensors.size());
  for (const auto& [name, values] : tensors) {
    const auto* stored = reader.manifest().find(name);
    ASSERT_NE(stored, nullptr) << name;
    ASSERT_EQ(stored->shape.rank(), static_cast<int>(values.at("shape").items().size())) << name;
    double sum = 0.0, magnitude = 0.0;
    std::vector<double> all;
    stream_tensor(reader, *stored, [&](const Tensor& part) { to_doubles(part, all); });
    ASSERT_EQ(static_cast<std::int64_t>(all.size()), stored->shape.elements()) << name;
    for (const double value : all) {
      sum += value;
      magnitude += std::abs(value);
    }
    EXPECT_NEAR(sum, values.at("sum").as_number(), 1e-14 * magnitude) << name;
    const double norm = std::sqrt(values.at("sum_of_squares").as_number());
    EXPECT_NEAR(statistics_of(reader, *stored).norm, norm, 1e-14 * norm) << name;
    EXPECT_EQ(all.front(), values.at("first").as_number()) << name;
    EXPECT_EQ(all.back(), values.at("last").as_number()) << name;
  }
}

TEST_P(CheckpointVersions, ReadsBackAsTheTextItWas) {
  const std::string text = test::read_bytes(golden() / manifest_name);
  EXPECT_EQ(CheckpointManifest::parse(text, "golden").to_text(), text);
}

INSTANTIATE_TEST_SUITE_P(Golden, CheckpointVersions,
                         testing::Range(1, CheckpointManifest::newest_version + 1));

TEST(CheckpointVersion, EveryOneHasAGoldenCheckpoint) {
  std::set<std::string> directories;
  for (const auto& entry : fs::directory_iterator(POLYMOE_FIXTURES)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.starts_with("checkpoint-v")) directories.insert(name);
  }
  std::set<std::string> expected;
  for (int version = 1; version <= CheckpointManifest::newest_version; ++version)
    expected.insert("checkpoint-v" + std::to_string(version));
  EXPECT_EQ(directories, expected);
}

TEST(CheckpointVersion, ANewerOneIsRefusedWhateverElseItHolds) {
  const test::TemporaryDirectory directory;
  const int newer = CheckpointManifest::newest_version + 1;
  test::write_bytes(directory.path() / manifest_name,
                    R"({"format": "polymoe checkpoint", "version": )" + std::to_string(newer) +
                        R"(, "unheard of": [1, 2]})");
  EXPECT_EQ(test::message_of<InputFileError>([&] { CheckpointReader{directory.path()}; }),
            (directory.path() / "manifest.json").string() + ": has format version " +
                std::to_string(newer) + "; this program reads up to " +
                std::to_string(CheckpointManifest::newest_version));
}

}  // namespace
}  // namespace polymoe

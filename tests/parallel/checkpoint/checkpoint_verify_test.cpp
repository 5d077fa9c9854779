// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/verify.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "parallel/checkpoint/difference.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/error.h"
#include "runtime/files/hash.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/support/recorded_progress.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

std::string flipped(std::string bytes, std::size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
  return bytes;
}

TEST(VerifyCheckpoint, PassesWhatWasSaved) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 1, 2);
  const RecordedProgress progress;
  const CheckpointVerdict verdict = verify_checkpoint(checkpoint, progress.output());
  EXPECT_TRUE(progress.text().starts_with("\rverifying  ")) << progress.text();
  EXPECT_EQ(verdict.findings, std::vector<std::string>());
  EXPECT_EQ(verdict.files, 3);
  EXPECT_EQ(verdict.tensors, static_cast<std::int64_t>(tensors.size()));
  std::int64_t elements = 0, bytes = 0;
  for (const auto& [name, shape] : tensors) elements += shape.elements();
  EXPECT_EQ(verdict.elements, elements);
  for (const auto& entry : fs::directory_iterator(checkpoint))
    if (entry.path().filename() != "manifest.json")
      bytes += static_cast<std::int64_t>(entry.file_size());
  EXPECT_EQ(verdict.bytes, bytes);
}

TEST(VerifyCheckpoint, FindsAnyFlippedBitAndNothingLoads) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 1, 2);
  for (const std::string& name : names_in(checkpoint)) {
    const std::string whole = read_bytes(checkpoint / name);
    for (std::size_t at = 0; at < whole.size(); at += whole.size() / 67 + 1) {
      write_bytes(checkpoint / name, flipped(whole, at));
      const CheckpointVerdict verdict = verify_checkpoint(checkpoint);
      ASSERT_EQ(verdict.findings.size(), 1u) << name << " at " << at;
      EXPECT_NE(verdict.findings[0].find(name), std::string::npos) << verdict.findings[0];
      EXPECT_THROW(wrong_after_reading(checkpoint), InputFileError) << name << " at " << at;
    }
    write_bytes(checkpoint / name, whole);
  }
  EXPECT_EQ(verify_checkpoint(checkpoint).findings, std::vector<std::string>());
}

TEST(VerifyCheckpoint, ALineForEverythingWrong) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 1, 4);
  const auto shard = [&](int rank) { return checkpoint / shard_name(rank, 4); };
  write_bytes(shard(0), flipped(read_bytes(shard(0)), 1000));
  write_bytes(shard(1), read_bytes(shard(1)) + "x");
  fs::remove(shard(3));
  write_bytes(checkpoint / "view.h5", "");
  const std::vector<std::string> findings = verify_checkpoint(checkpoint).findings;
  ASSERT_EQ(findings.size(), 4u);
  EXPECT_TRUE(findings[0].starts_with(shard(0).string() + ": is damaged")) << findings[0];
  EXPECT_TRUE(findings[1].starts_with(shard(1).string() + ": has ")) << findings[1];
  EXPECT_TRUE(findings[2].starts_with(shard(3).string() + ": cannot open")) << findings[2];
  EXPECT_TRUE(findings[3].starts_with((checkpoint / "view.h5").string() + ": has 0 bytes"));
  EXPECT_EQ(verify_checkpoint(directory.path()).findings.size(), 1u);
}

TEST(VerifyCheckpoint, FindsValuesThatAreNotFinite) {
  TemporaryDirectory directory;
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    Holding holding;
    const int rank = world->rank();
    holding.add("parameter/a", {3, 4}, DType::f32, 6 * rank, 6 * (rank + 1));
    float* values = holding.pieces[0].data.data<float>();
    std::fill_n(values, 6, 1.5f);
    if (rank == 0) values[5] = -std::numeric_limits<float>::infinity();
    if (rank == 1) values[2] = std::numeric_limits<float>::quiet_NaN();
    save_checkpoint(directory.path(), info_of(1), holding.pieces, *world);
  });
  const fs::path checkpoint = directory.path() / checkpoint_name(1);
  EXPECT_EQ(verify_checkpoint(checkpoint).findings,
            std::vector<std::string>{
                checkpoint.string() +
                ": tensor parameter/a has 2 elements that are not finite, the first at 5"});
  const CheckpointReader reader(checkpoint);
  const TensorStatistics statistics = statistics_of(reader, reader.manifest().tensors[0]);
  EXPECT_EQ(statistics.not_finite, 2);
  EXPECT_DOUBLE_EQ(statistics.norm, 1.5 * std::sqrt(10.0));
  EXPECT_EQ(statistics.largest, 1.5);
}

TEST(VerifyCheckpoint, FindsPiecesThatAreNotAsTheManifestSays) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 1, 1);
  std::string text = read_bytes(checkpoint / "manifest.json");
  // A manifest that was made wrong, not damaged.
  for (const auto& [from, to] :
       {std::pair<std::string, std::string>("\"dataset\": \"scalar:0\"",
                                            "\"dataset\": \"scalar:1\""),
        {"parameter/embedding.weight:0", "parameter/layers.0.experts.0.up.weight:0"}}) {
    ASSERT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), from.size(), to);
  }
  text.resize(text.rfind(",\n"));
  text += ",\n  \"xxh3\": \"" + xxh3_of(text) + "\"\n}\n";
  write_bytes(checkpoint / "manifest.json", text);
  const std::vector<std::string> findings = verify_checkpoint(checkpoint).findings;
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_NE(findings[0].find("holds 42 elements of f32, the manifest says 165 of f32"),
            std::string::npos)
      << findings[0];
  EXPECT_NE(findings[1].find("no dataset scalar:1"), std::string::npos) << findings[1];
}

/// A checkpoint of one tensor of one rank.
fs::path save_values(const fs::path& root, const Shape& shape, const std::vector<float>& values) {
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    Holding holding;
    holding.add("t", shape, DType::f32, 0, shape.elements());
    std::copy(values.begin(), values.end(), holding.pieces[0].data.data<float>());
    save_checkpoint(root, info_of(1), holding.pieces, *world);
  });
  return root / checkpoint_name(1);
}

TEST(DifferenceOfTensors, IsRelativeToTheLargerNorm) {
  TemporaryDirectory directory;
  const CheckpointReader a(save_values(directory.path() / "a", {4}, {3, 0, 4, 0}));
  const CheckpointReader b(save_values(directory.path() / "b", {4}, {3, 1, 4, -2}));
  for (const TensorDifference& found : {difference_of(a, b, "t"), difference_of(b, a, "t")}) {
    EXPECT_FALSE(found.same_bits);
    EXPECT_EQ(found.differing, 2);
    EXPECT_DOUBLE_EQ(found.relative, std::sqrt(5.0) / std::sqrt(30.0));
    EXPECT_EQ(found.largest, 2.0);
  }
  const TensorDifference same = difference_of(a, a, "t");
  EXPECT_TRUE(same.same_bits);
  EXPECT_EQ(same.relative, 0.0);
  EXPECT_THROW(difference_of(a, b, "none"), InputFileError);
  const CheckpointReader other(save_values(directory.path() / "c", {2, 2}, {3, 0, 4, 0}));
  EXPECT_THROW(difference_of(a, other, "t"), InputFileError);
}

TEST(DifferenceOfTensors, KnowsWhatIsNotANumberAndNegativeZero) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  TemporaryDirectory directory;
  const CheckpointReader a(save_values(directory.path() / "a", {2}, {nan, 1}));
  const CheckpointReader b(save_values(directory.path() / "b", {2}, {0, 1}));
  const CheckpointReader c(save_values(directory.path() / "c", {2}, {-0.0f, 1}));
  EXPECT_TRUE(difference_of(a, a, "t").same_bits);
  EXPECT_TRUE(std::isnan(difference_of(a, b, "t").relative));
  EXPECT_FALSE(difference_of(b, c, "t").same_bits);
  EXPECT_EQ(difference_of(b, c, "t").relative, 0.0);
}

}  // namespace
}  // namespace polymoe

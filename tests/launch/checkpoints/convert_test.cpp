// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "parallel/checkpoint/difference.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/verify.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/error.h"
#include "runtime/float16.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/recorded_progress.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::checkpoint_contents;
using test::Layout;
using test::read_bytes;

class ConvertTest : public testing::Test {
 protected:
  ConvertTest() { test::write_tokens(directory_.path() / "tokens", 4000, 64, 1); }

  fs::path path(const std::string& name) const { return directory_.path() / name; }

  /// A run of three steps; returns its checkpoint.
  fs::path trained(const std::string& run, Layout layout) {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path(run).string();
    config.train.stop_after = 3;
    test::train(config, layout);
    return path(run) / "checkpoints" / "step-00000003";
  }

  /// The loss of the step that a run which starts from a checkpoint does first.
  double next_loss(const fs::path& checkpoint, Layout layout) {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = path("next-" + std::to_string(runs_++)).string();
    config.checkpoint.resume = checkpoint.string();
    config.train.stop_after = 1;
    test::train(config, layout);
    const auto rows = test::metrics_of(config.run.dir);
    EXPECT_EQ(rows.size(), 1u);
    EXPECT_EQ(rows.at(0).at("step").as_integer(), 4);
    return rows.at(0).at("loss").as_number();
  }

  void expect_same_files(const fs::path& a, const fs::path& b) {
    std::vector<std::string> names, others;
    for (const auto& entry : fs::directory_iterator(a)) names.push_back(entry.path().filename());
    for (const auto& entry : fs::directory_iterator(b)) others.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    std::sort(others.begin(), others.end());
    ASSERT_EQ(names, others);
    for (const std::string& name : names)
      EXPECT_EQ(read_bytes(a / name), read_bytes(b / name)) << name;
  }

  test::TemporaryDirectory directory_;
  int runs_ = 0;
};

TEST_F(ConvertTest, RoundTripKeepsEveryBitOfTensorsAndMoments) {
  const fs::path first = trained("run", {.ranks = 1});
  const auto contents = checkpoint_contents(first);
  ASSERT_TRUE(contents.contains("moment1/layers.1.experts.3.up.weight"));
  ASSERT_TRUE(contents.contains("moment2/layers.0.experts.0.down.weight"));
  const double loss = next_loss(first, {.ranks = 1});
  fs::path from = first;
  for (const Layout layout : {Layout{4, 2}, Layout{2, 2}, Layout{4, 4}, Layout{1, 1}}) {
    SCOPED_TRACE(std::to_string(layout.ranks) + " ranks");
    const fs::path to =
        path("as-" + std::to_string(layout.ranks) + "-" + std::to_string(layout.expert_parallel));
    convert_checkpoint(from, to, layout.ranks, layout.expert_parallel);
    const CheckpointReader reader(to);
    EXPECT_EQ(reader.info().step, 3);
    EXPECT_EQ(reader.info().ranks, layout.ranks);
    EXPECT_EQ(reader.info().expert_parallel, layout.expert_parallel);
    EXPECT_NO_THROW(reader.verify_hashes());
    EXPECT_EQ(checkpoint_contents(to), contents);
    EXPECT_NEAR(next_loss(to, layout), loss, 1e-6);
    from = to;
  }
  expect_same_files(first, from);
}

TEST_F(ConvertTest, WritesWhatTheRanksOfThatLayoutWrite) {
  const fs::path saved = trained("run", {.ranks = 4, .expert_parallel = 2});
  const test::RecordedProgress progress;
  convert_checkpoint(saved, path("one"), 1, 1, std::nullopt, progress.output());
  EXPECT_TRUE(progress.text().starts_with("\rconverting  ")) << progress.text();
  convert_checkpoint(path("one"), path("four"), 4, 2);
  expect_same_files(saved, path("four"));
}

TEST_F(ConvertTest, StoresParametersInBf16AndBackInF32) {
  const fs::path saved = trained("run", {.ranks = 2, .expert_parallel = 2});
  convert_checkpoint(saved, path("narrow"), 1, 1, DType::bf16);
  convert_checkpoint(path("narrow"), path("narrow-2"), 2, 2);
  convert_checkpoint(path("narrow-2"), path("wide"), 1, 1, DType::f32);
  std::map<std::string, std::vector<float>> rounded = checkpoint_contents(saved);
  for (auto& [name, values] : rounded) {
    if (!name.starts_with("parameter/")) continue;
    for (float& value : values) value = float_of_bf16(split_float(value).high);
  }
  for (const char* name : {"narrow", "narrow-2", "wide"}) {
    SCOPED_TRACE(name);
    const CheckpointReader reader(path(name));
    const bool narrow = std::string(name) != "wide";
    for (const auto& tensor : reader.manifest().tensors)
      EXPECT_EQ(tensor.dtype == DType::bf16, narrow && tensor.name.starts_with("parameter/"))
          << tensor.name;
    EXPECT_EQ(checkpoint_contents(path(name)), rounded);
    EXPECT_EQ(verify_checkpoint(path(name)).findings, std::vector<std::string>());
  }
  // What went through bf16 once is the same in f32, and trains alike.
  EXPECT_EQ(next_loss(path("narrow-2"), {.ranks = 1}), next_loss(path("wide"), {.ranks = 1}));
  const CheckpointReader narrow(path("narrow")), again(path("narrow-2"));
  const std::string name = "parameter/layers.0.experts.1.up.weight";
  EXPECT_TRUE(difference_of(narrow, again, name).same_bits);
  EXPECT_NEAR(statistics_of(narrow, *narrow.manifest().find(name)).norm,
              statistics_of(CheckpointReader(path("wide")),
                            *CheckpointReader(path("wide")).manifest().find(name))
                  .norm,
              1e-12);
}

TEST_F(ConvertTest, RefusesWhatCannotBeAndLeavesNothing) {
  const fs::path saved = trained("run", {.ranks = 2, .expert_parallel = 2});
  const auto refusal = [&](int ranks, int expert_parallel) {
    return test::message_of<InvalidArgument>(
        [&] { convert_checkpoint(saved, path("out"), ranks, expert_parallel); });
  };
  EXPECT_NE(refusal(4, 3).find("parallel.expert = 3"), std::string::npos);
  EXPECT_NE(refusal(3, 2).find("divisor of the number of ranks (3)"), std::string::npos);
  convert_checkpoint(saved, path("there"), 1, 1);
  EXPECT_NE(test::message_of<InvalidArgument>([&] {
              convert_checkpoint(saved, path("there"), 2, 1);
            }).find("exists"),
            std::string::npos);
  EXPECT_EQ(CheckpointReader(path("there")).info().ranks, 1);
  EXPECT_THROW(convert_checkpoint(saved, path("tokens.bin") / "out", 1, 1), OutputFileError);

  const fs::path shard = saved / "shard-00001-of-00002.h5";
  std::string bytes = read_bytes(shard);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
  test::write_bytes(shard, bytes);
  EXPECT_THROW(convert_checkpoint(saved, path("out"), 4, 2), InputFileError);
  EXPECT_FALSE(fs::exists(path("out")));
  EXPECT_FALSE(fs::exists(path("out.partial")));
}

TEST_F(ConvertTest, RefusesToLoseATensor) {
  const fs::path saved = trained("run", {.ranks = 1});
  const CheckpointReader reader(saved);
  // The same checkpoint with one tensor more.
  write_checkpoint(
      path("more"), reader.info(),
      [&](int) {
        std::vector<TensorPiece> pieces;
        for (const auto& tensor : reader.manifest().tensors)
          pieces.push_back({tensor.name, tensor.shape, 0,
                            Tensor(nullptr, tensor.shape, tensor.dtype, Device::meta())});
        pieces.push_back({"extra", {2}, 0, Tensor(nullptr, {2}, DType::f32, Device::meta())});
        return pieces;
      },
      [&](const TensorPiece& piece) {
        if (piece.name == "extra") {
          std::fill_n(piece.data.data<float>(), 2, 1.0f);
        } else {
          reader.read({piece});
        }
      });
  const std::string message = test::message_of<InputFileError>(
      [&] { convert_checkpoint(path("more") / "step-00000003", path("out"), 2, 1); });
  EXPECT_NE(message.find("holds the tensor extra"), std::string::npos) << message;
}

}  // namespace
}  // namespace polymoe

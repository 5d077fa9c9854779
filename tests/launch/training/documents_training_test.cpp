// SPDX-License-Identifier: Apache-2.0
// Training on documents: packed into windows, and kept apart.
#include <gtest/gtest.h>

#include <cmath>

#include "launch/data/token_data.h"
#include "launch/step/evaluation.h"
#include "launch/training/trainer.h"
#include "runtime/files/megatron_writer.h"
#include "runtime/random.h"
#include "tests/launch/random_model.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::metrics_of;
using test::train;
using test::without_times;

constexpr std::int64_t context = 16;

class DocumentsTraining : public testing::Test {
 protected:
  DocumentsTraining() {
    write("tokens", 400, 1);
    write("valid", 12, 2);
  }
  /// Documents of 12 to 19 tokens, too long to fill windows; each token follows from the one
  /// before.
  void write(const std::string& name, std::int64_t documents, std::uint64_t seed) {
    const RandomStream random(seed, "documents");
    MegatronWriter writer(directory_.path() / name, 64);
    for (std::int64_t i = 0; i < documents; ++i) {
      const std::uint64_t bits = random.bits(static_cast<std::uint64_t>(i));
      std::vector<std::int32_t> ids(12 + bits % 8, static_cast<std::int32_t>(bits / 8 % 64));
      for (std::size_t t = 1; t < ids.size(); ++t) ids[t] = (5 * ids[t - 1] + 3) % 64;
      writer.add(ids);
    }
    writer.finish();
  }
  Config config(const std::string& run, Packing packing) const {
    Config config = test::tiny_config(directory_.path());
    config.run.dir = (directory_.path() / run).string();
    config.data.documents = Documents::mask;
    config.data.packing = packing;
    return config;
  }
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }

  test::TemporaryDirectory directory_;
};

TEST_F(DocumentsTraining, GivesTheSameOnAnyNumberOfRanksAndCountsNoPadding) {
  Config settings = config("one", Packing::documents);
  settings.data.valid = {{.path = path("valid").string(), .weight = {}}};
  settings.train.valid_every = 10;
  train(settings, {.ranks = 1, .expert_parallel = 1});
  const std::vector<Json> expected = metrics_of(path("one"));
  ASSERT_EQ(expected.size(), 20U);

  const TokenData data(settings.data, {.context = context, .vocab = 64, .seed = 7, .samples = 160});
  std::int64_t tokens = 0;
  std::vector<std::int32_t> rows(static_cast<std::size_t>(3 * context));
  for (std::int64_t sample = 0; sample < 160; ++sample) {
    data.sample(sample, {rows.data(), rows.data() + context, rows.data() + 2 * context});
    tokens += std::count_if(rows.begin() + context, rows.begin() + 2 * context,
                            [](std::int32_t target) { return target >= 0; });
  }
  EXPECT_LT(tokens, 160 * context);
  EXPECT_EQ(expected.back().at("tokens").as_integer(), tokens);

  for (const auto& [ranks, expert] : {std::pair{2, 2}, std::pair{4, 1}, std::pair{4, 2}}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks, expert " + std::to_string(expert));
    const std::string name = std::to_string(ranks) + "-" + std::to_string(expert);
    settings.run.dir = path(name).string();
    settings.train.micro_batch = ranks == 2 ? 4 : 2;
    train(settings, {.ranks = ranks, .expert_parallel = expert});
    const std::vector<Json> actual = metrics_of(path(name));
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      EXPECT_EQ(actual[i].at("tokens").as_integer(), expected[i].at("tokens").as_integer());
      for (const char* key : {"loss", "aux_loss", "z_loss", "grad_norm"}) {
        const double reference = expected[i].at(key).as_number();
        EXPECT_NEAR(actual[i].at(key).as_number(), reference, 1e-5 * std::abs(reference))
            << key << " of step " << i + 1;
      }
    }
    EXPECT_NEAR(actual.back().at("valid_loss").as_number(),
                expected.back().at("valid_loss").as_number(), 1e-4);
  }
}

TEST_F(DocumentsTraining, AResumeGivesTheBitsOfAStraightRun) {
  for (const Packing packing : {Packing::stream, Packing::documents}) {
    const std::string name = packing == Packing::stream ? "stream" : "packed";
    train(config(name, packing), {.ranks = 2, .expert_parallel = 2});
    Config halves = config(name + "-halves", packing);
    halves.train.stop_after = 9;
    train(halves, {.ranks = 2, .expert_parallel = 2});
    train(halves, {.ranks = 2, .expert_parallel = 2});
    train(halves, {.ranks = 2, .expert_parallel = 2});
    const auto straight = metrics_of(path(name)), resumed = metrics_of(path(name + "-halves"));
    ASSERT_EQ(straight.size(), 20U);
    ASSERT_EQ(resumed.size(), 20U);
    for (std::size_t i = 0; i < straight.size(); ++i)
      EXPECT_EQ(without_times(resumed[i]), without_times(straight[i]));
  }
}

/// A model evaluated on documents: each has the loss that it has alone.
TEST_F(DocumentsTraining, ValidationKeepsThemApartToo) {
  Config settings = config("run", Packing::stream);
  settings.model.init_std = 0.3;
  const TokenFile valid = TokenFile::open(path("valid"), 2);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    test::RandomModel random(settings.model, std::move(world), 2);
    // One window holds the file, so that no document is cut.
    const DocumentEnds ends(valid, path("valid").string(), settings.data);
    const Evaluation together =
        evaluate(random.model, valid, {.context = valid.tokens(), .documents = &ends}, random.mesh,
                 random.context);
    double sum = 0.0;
    std::int64_t tokens = 0;
    for (std::int64_t i = 0; i < valid.documents(); ++i) {
      const Arena::Scope scope(random.context.arena);
      const TokenFile::Range document = valid.document(i);
      const std::int64_t length = document.size() - 1;
      const TokenBatch batch{.tokens = random.context.arena.allocate({length}, DType::i32),
                             .targets = random.context.arena.allocate({length}, DType::i32),
                             .sequences = 1,
                             .length = length};
      valid.read(document.begin, length, batch.tokens.data<std::int32_t>());
      valid.read(document.begin + 1, length, batch.targets.data<std::int32_t>());
      const Tensor losses = random.model.token_losses(batch, random.context);
      for (std::int64_t t = 0; t < length; ++t) sum += static_cast<double>(losses.data<float>()[t]);
      tokens += length;
    }
    EXPECT_EQ(together.tokens, tokens);
    EXPECT_NEAR(together.loss_sum, sum, 1e-5 * sum);
    random.mesh.shutdown();
  });
}

}  // namespace
}  // namespace polymoe

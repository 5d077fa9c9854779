// SPDX-License-Identifier: Apache-2.0
#include "launch/step/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/error.h"
#include "runtime/system.h"
#include "tests/launch/random_model.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/recorded_progress.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

class ValidationTest : public testing::Test {
 protected:
  ValidationTest() : config_(test::tiny_config(directory_.path())) {
    config_.model.init_std = 0.3;  // losses that differ from token to token
  }
  TokenFile file(std::int64_t tokens) {
    const auto path = directory_.path() / ("tokens-" + std::to_string(tokens));
    test::write_tokens(path, tokens, config_.model.vocab, 3);
    return TokenFile::open(path, 2);
  }
  Evaluation run(const TokenFile& tokens, const EvaluationWindows& windows, int ranks,
                 int expert_parallel) {
    std::vector<Evaluation> results(static_cast<std::size_t>(ranks));
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      const auto rank = static_cast<std::size_t>(world->rank());
      test::RandomModel random(config_.model, std::move(world), expert_parallel);
      results[rank] = evaluate(random.model, tokens, windows, random.mesh, random.context);
      random.mesh.shutdown();
    });
    for (const Evaluation& result : results) {
      EXPECT_EQ(result.loss_sum, results[0].loss_sum);
      EXPECT_EQ(result.tokens, results[0].tokens);
    }
    return results[0];
  }
  /// Window after window on one rank, the first `predictions` of them.
  double expected(const TokenFile& tokens, std::int64_t predictions) {
    test::RandomModel random(config_.model, std::move(make_local_communicators(1)[0]), 1);
    double sum = 0.0;
    for (std::int64_t begin = 0; begin < predictions; begin += config_.model.context) {
      const Arena::Scope scope(random.context.arena);
      const std::int64_t length = std::min(config_.model.context, predictions - begin);
      const TokenBatch batch{.tokens = random.context.arena.allocate({length}, DType::i32),
                             .targets = random.context.arena.allocate({length}, DType::i32),
                             .sequences = 1,
                             .length = length};
      tokens.read(begin, length, batch.tokens.data<std::int32_t>());
      tokens.read(begin + 1, length, batch.targets.data<std::int32_t>());
      const Tensor losses = random.model.token_losses(batch, random.context);
      for (std::int64_t i = 0; i < length; ++i) sum += losses.data<float>()[i];
    }
    return sum;
  }

  test::TemporaryDirectory directory_;
  Config config_;
};

TEST_F(ValidationTest, CountsEveryTokenOnceUnderAnyLayout) {
  // No whole window; whole windows only; more windows than ranks, the last one shorter.
  for (const std::int64_t count : {2, 10, 16 * 3 + 1, 16 * 7 + 6}) {
    const TokenFile tokens = file(count);
    const double sum = expected(tokens, count - 1);
    for (const int ranks : {1, 2, 4})
      for (const std::int64_t per_batch : {1, 3}) {
        const Evaluation result =
            run(tokens, {.context = config_.model.context, .per_batch = per_batch}, ranks, ranks);
        EXPECT_EQ(result.tokens, count - 1);
        EXPECT_NEAR(result.loss_sum, sum, 1e-6 * sum) << count << " tokens, " << ranks << " ranks";
        EXPECT_DOUBLE_EQ(result.perplexity(),
                         std::exp(result.loss_sum / static_cast<double>(count - 1)));
      }
  }
}

TEST_F(ValidationTest, LeavesOutWhatTheMaskLeavesOut) {
  const std::int64_t count = 16 * 3 + 1;
  const double all = run(file(count), {.context = 16, .per_batch = 1}, 1, 1).loss_sum;
  const auto masked = [&](std::int64_t remainder) {
    std::string mask(static_cast<std::size_t>(count), '\0');
    for (std::int64_t i = 0; i < count; ++i)
      if (i % 3 == remainder) mask[static_cast<std::size_t>(i)] = 1;
    test::write_bytes(directory_.path() / ("tokens-" + std::to_string(count) + ".mask.bin"), mask);
    const TokenFile tokens =
        TokenFile::open(directory_.path() / ("tokens-" + std::to_string(count)), 2);
    return run(tokens, {.context = 16, .per_batch = 1}, 2, 2);
  };
  double sum = 0.0;
  for (const std::int64_t remainder : {0, 1, 2}) {
    const Evaluation part = masked(remainder);
    EXPECT_EQ(part.tokens, 16) << remainder;  // the first token is never predicted
    sum += part.loss_sum;
  }
  EXPECT_NEAR(sum, all, 1e-6 * all);
}

TEST_F(ValidationTest, StopsAfterTheWindowsAskedFor) {
  const TokenFile tokens = file(16 * 7 + 6);
  const Evaluation result = run(tokens, {.context = 16, .per_batch = 2, .max_windows = 3}, 2, 1);
  EXPECT_EQ(result.tokens, 48);
  const double sum = expected(tokens, 48);
  EXPECT_NEAR(result.loss_sum, sum, 1e-6 * sum);
  EXPECT_EQ(run(tokens, {.context = 16, .per_batch = 2, .max_windows = 100}, 2, 1).tokens,
            16 * 7 + 5);
}

TEST_F(ValidationTest, TellsHowManyWindowsAreDone) {
  const test::RecordedProgress progress;
  run(file(16 * 7 + 6),
      {.context = 16, .per_batch = 8, .max_windows = 7, .progress = progress.output()}, 1, 1);
  EXPECT_NE(progress.text().find("evaluating  100 %  7 of 7 windows"), std::string::npos)
      << progress.text();
}

TEST_F(ValidationTest, OneTokenPredictsNothing) {
  const TokenFile tokens = file(1);
  EXPECT_THROW(run(tokens, {.context = 16}, 1, 1), InputFileError);
}

}  // namespace
}  // namespace polymoe

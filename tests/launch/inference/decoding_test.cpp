// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/decoding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "runtime/error.h"
#include "tests/launch/random_model.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using Ids = std::vector<std::int32_t>;

class DecodingTest : public testing::Test {
 protected:
  DecodingTest() : config_(test::tiny_config(directory_.path()).model) {
    config_.init_std = 0.3;  // logits that differ from token to token
  }
  AnsweringModel answering(test::RandomModel& random, std::int64_t batch) const {
    return {.model = random.model,
            .mesh = random.mesh,
            .context = random.context,
            .dtype = DType::f32,
            .limits = {.tokens = 20, .places = 20},
            .batch = batch};
  }
  /// What is drawn for each request, the same on every rank. A request ends with a token `last`.
  std::vector<Ids> run(const std::vector<DecodingRequest>& requests, std::int64_t batch,
                       test::Layout layout = {}, std::int32_t last = -1) {
    std::vector<std::vector<Ids>> drawn(static_cast<std::size_t>(layout.ranks));
    run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
      std::vector<Ids>& own = drawn[static_cast<std::size_t>(world->rank())];
      own.resize(requests.size());
      test::RandomModel random(config_, std::move(world), layout.expert_parallel);
      const auto work = continue_all(answering(random, batch), requests, config_.vocab,
                                     [&](std::size_t request, std::int32_t id) {
                                       own[request].push_back(id);
                                       return id != last;
                                     });
      EXPECT_TRUE(work.has_value());
      std::int64_t tokens = 0;
      for (std::size_t i = 0; i < requests.size(); ++i)
        tokens += std::ssize(requests[i].prompt) + std::ssize(own[i]) - 1;
      const bool rereads = std::ranges::any_of(requests, &DecodingRequest::beyond_context);
      if (!rereads) {
        EXPECT_EQ(work->tokens, tokens);
      }
      EXPECT_GE(work->tokens, tokens);
      EXPECT_LE(work->first_tokens, work->tokens);
      EXPECT_GT(work->first_tokens, 0);
      random.mesh.shutdown();
    });
    for (const std::vector<Ids>& other : drawn) EXPECT_EQ(other, drawn[0]);
    return drawn[0];
  }
  /// Prompts of 1 to 16 tokens, of which two end with the context.
  std::vector<DecodingRequest> requests(const SamplingOptions& sampling) const {
    std::vector<DecodingRequest> all;
    for (const std::int64_t length : {3, 1, 15, 8, 1, 5, 16, 2, 9}) {
      DecodingRequest request{.tokens = std::min<std::int64_t>(5, config_.context + 1 - length),
                              .sampling = sampling,
                              .text = all.size()};
      for (std::int64_t i = 0; i < length; ++i)
        request.prompt.push_back(static_cast<std::int32_t>((7 * i + 3 * all.size()) % 60));
      all.push_back(std::move(request));
    }
    return all;
  }
  std::vector<Ids> one_by_one(const std::vector<DecodingRequest>& all, std::int32_t last = -1) {
    std::vector<Ids> drawn;
    for (const DecodingRequest& request : all) drawn.push_back(run({request}, 1, {}, last)[0]);
    return drawn;
  }

  test::TemporaryDirectory directory_;
  ModelConfig config_;
};

TEST_F(DecodingTest, ABatchDrawsWhatEachDrawsAlone) {
  struct Kind {
    const char* name;
    std::int64_t experts;
    double capacity_factor;
  };
  for (const Kind& kind : {Kind{"dense", 0, 0.0}, {"experts", 4, 0.0}, {"dropping", 4, 1.0}}) {
    SCOPED_TRACE(kind.name);
    config_.moe.experts = kind.experts;
    config_.moe.capacity_factor = kind.capacity_factor;
    if (kind.experts == 0) config_.moe = {};
    config_.ffn = 24;
    for (const double temperature : {0.0, 0.8}) {
      const auto all = requests({.temperature = temperature, .seed = 4});
      const std::vector<Ids> alone = one_by_one(all);
      for (std::size_t i = 0; i < all.size(); ++i)
        EXPECT_EQ(std::ssize(alone[i]), all[i].tokens) << i;
      for (const std::int64_t batch : {1, 2, 4, 64})
        EXPECT_EQ(run(all, batch), alone) << "a batch of " << batch;
      const int experts = kind.experts > 0 ? 2 : 1;
      for (const int ranks : {2, 4})
        EXPECT_EQ(run(all, 2, {.ranks = ranks, .expert_parallel = experts}), alone)
            << ranks << " ranks";
      // Fewer requests than ranks: some have nothing to do.
      EXPECT_EQ(run({all[3]}, 2, {.ranks = 2, .expert_parallel = experts})[0], alone[3]);
    }
  }
}

TEST_F(DecodingTest, WhatEndsLeavesItsPlaceToTheNext) {
  const auto all = requests({.temperature = 1.0, .seed = 1});
  const Ids free = one_by_one(all)[3];
  const std::int32_t last = free[1];
  const std::vector<Ids> alone = one_by_one(all, last);
  EXPECT_EQ(alone[3].size(), 2U);
  for (const std::int64_t batch : {2, 3}) EXPECT_EQ(run(all, batch, {}, last), alone);
}

TEST_F(DecodingTest, ATextHasRandomNumbersOfItsOwn) {
  DecodingRequest request{.prompt = {1, 2, 3}, .tokens = 12, .sampling = {.seed = 9}};
  std::vector<DecodingRequest> same(8, request);
  std::set<Ids> different;
  for (std::size_t i = 0; i < same.size(); ++i) same[i].text = i;
  for (const Ids& ids : run(same, 8)) different.insert(ids);
  EXPECT_EQ(different.size(), same.size());
  // The first one's are those of a text that is continued by itself.
  request.text = 0;
  EXPECT_EQ(run(same, 8)[0], run({request}, 1)[0]);
}

TEST_F(DecodingTest, GoesOnBeyondTheContextFromItsLastHalf) {
  auto all = requests({.temperature = 0.7, .seed = 2});
  for (DecodingRequest& request : all) {
    request.tokens = 40;
    request.beyond_context = true;
  }
  const std::vector<Ids> alone = one_by_one(all);
  for (const Ids& ids : alone) EXPECT_EQ(ids.size(), 40U);
  EXPECT_EQ(run(all, 4), alone);
  // A context that is full is begun anew with its last half: 3 tokens of the prompt and 13 drawn.
  DecodingRequest half = all[0];
  half.sampling.temperature = 0.0;
  DecodingRequest anew = half;
  const Ids greedy = run({half}, 1)[0];
  anew.prompt.assign(greedy.begin() + 6, greedy.begin() + 14);
  anew.tokens = 2;
  EXPECT_EQ(run({anew}, 1)[0], Ids(greedy.begin() + 14, greedy.begin() + 16));
}

TEST_F(DecodingTest, MayBeLeftBeforeAnyPass) {
  test::RandomModel random(config_, std::move(make_local_communicators(1)[0]), 1);
  AnsweringModel leaving = answering(random, 2);
  int passes = 0, drawn = 0;
  leaving.leave = [&] { return ++passes == 3; };
  const auto all = requests({});
  EXPECT_FALSE(continue_all(leaving, all, config_.vocab, [&](std::size_t, std::int32_t) {
    ++drawn;
    return true;
  }));
  EXPECT_EQ(drawn, 4);
}

TEST_F(DecodingTest, RefusesWhatCannotBeContinued) {
  test::RandomModel random(config_, std::move(make_local_communicators(1)[0]), 1);
  const auto message = [&](const DecodingRequest& request, std::int64_t batch = 2) {
    return test::message_of<InvalidArgument>([&] {
      continue_all(answering(random, batch), {{.prompt = {1}, .tokens = 1}, request}, config_.vocab,
                   [](std::size_t, std::int32_t) { return true; });
    });
  };
  EXPECT_EQ(message({.prompt = {}, .tokens = 1}),
            "request 1 of 2: a prompt without tokens, must have at least 1");
  EXPECT_EQ(message({.prompt = {1}, .tokens = 0}), "request 1 of 2: 0 tokens, must be at least 1");
  EXPECT_EQ(message({.prompt = Ids(10, 1), .tokens = 8}),
            "request 1 of 2: a prompt of 10 tokens and 8 new ones but the last are more than the "
            "context of 16");
  EXPECT_EQ(
      message({.prompt = {1}, .tokens = std::numeric_limits<std::int64_t>::max()}).substr(0, 46),
      "request 1 of 2: a prompt of 1 tokens and 92233");
  EXPECT_EQ(message({.prompt = Ids(17, 1), .tokens = 1, .beyond_context = true}),
            "request 1 of 2: a prompt of 17 tokens and 1 new ones but the last are more than the "
            "context of 16");
  EXPECT_EQ(
      message({.prompt = {1}, .tokens = 1}, std::numeric_limits<std::int64_t>::max()).substr(0, 31),
      "a batch of 9223372036854775807:");
  EXPECT_EQ(continue_all(answering(random, 2), {}, config_.vocab, {})->tokens, 0);
}

TEST_F(DecodingTest, FailsAlikeOnAllRanksWhereTheModelIsNotFinite) {
  const auto all = requests({});
  EXPECT_THROW(run_ranks(2,
                         [&](std::unique_ptr<Communicator> world) {
                           const int self = world->rank();
                           test::RandomModel random(config_, std::move(world), 1);
                           if (self == 1) {
                             for (const Parameter& parameter : random.store.parameters())
                               parameter.value.data<float>()[0] =
                                   std::numeric_limits<float>::quiet_NaN();
                           }
                           try {
                             continue_all(answering(random, 2), all, config_.vocab,
                                          [](std::size_t, std::int32_t) { return true; });
                             ADD_FAILURE() << "rank " << self;
                           } catch (const CommunicationError&) {
                             ADD_FAILURE() << "rank " << self << " waited";
                           }
                         }),
               Error);
}

}  // namespace
}  // namespace polymoe

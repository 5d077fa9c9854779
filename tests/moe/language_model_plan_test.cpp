// SPDX-License-Identifier: Apache-2.0
#include "moe/model_size.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "tests/moe/model_harness.h"
#include "tests/support/run_ranks.h"

namespace polymoe::test {
namespace {

ModelConfig dense_1b(ActivationKind activation) {
  ModelConfig config;
  config.layers = 24;
  config.hidden = 2048;
  config.heads = 16;
  config.vocab = 32000;
  config.context = 4096;
  config.activation.kind = activation;
  return config;
}

ModelConfig moe_7b(ActivationKind activation) {
  ModelConfig config;
  config.layers = 16;
  config.hidden = 2048;
  config.heads = 16;
  config.vocab = 50304;
  config.context = 4096;
  config.qk_norm = true;
  config.activation.kind = activation;
  config.moe.experts = 64;
  config.moe.top_k = 8;
  return config;
}

std::int64_t total_parameters(const ModelConfig& config, int ranks, int expert_parallel) {
  const ModelRank rank(config, make_planning_world(0, ranks, expert_parallel), expert_parallel,
                       DType::f32, Device::meta());
  return rank.store.total_elements();
}

TEST(ParameterCount, OfTheDense1BModelIsExact) {
  EXPECT_EQ(total_parameters(dense_1b(ActivationKind::swiglu), 1, 1), 1'345'423'360);
  EXPECT_EQ(total_parameters(dense_1b(ActivationKind::polynorm), 1, 1), 1'345'423'360 + 96);
  EXPECT_EQ(active_parameters(dense_1b(ActivationKind::swiglu)), 1'345'423'360);
  EXPECT_EQ(active_parameters(dense_1b(ActivationKind::polynorm)), 1'345'423'360 + 96);
}

TEST(ParameterCount, OfTheMoe7BModelIsExactUnderAnyLayout) {
  for (const int expert_parallel : {1, 8}) {
    EXPECT_EQ(total_parameters(moe_7b(ActivationKind::swiglu), 8, expert_parallel), 6'919'161'856);
    EXPECT_EQ(total_parameters(moe_7b(ActivationKind::polynorm), 8, expert_parallel),
              6'919'161'856 + 64);
  }
  EXPECT_EQ(active_parameters(moe_7b(ActivationKind::swiglu)), 1'282'017'280);
  EXPECT_EQ(active_parameters(moe_7b(ActivationKind::polynorm)), 1'282'017'280 + 64);
}

TEST(ParameterCount, ActiveOnesWithAllExpertsChosenAreAll) {
  for (const char* name : {"moe", "shared", "dense"}) {
    ModelConfig config = reference_config(name);
    config.moe.top_k = std::max<std::int64_t>(config.moe.experts, 1);
    EXPECT_EQ(active_parameters(config), total_parameters(config, 1, 1)) << name;
  }
}

/// Bytes of the arena that a step needs, on either device.
std::size_t high_water(const ModelConfig& config, ModelRank& rank, std::int64_t sequences,
                       std::int64_t length, Recompute recompute) {
  const Device device = rank.context.arena.device();
  if (device.type != DeviceType::meta) rank.store.initialize(5, rank.context.stream);
  const bool meta = device.type == DeviceType::meta;
  const OwnedTensor tokens = meta ? OwnedTensor({sequences * length}, DType::i32, device)
                                  : hashed_integers("tokens", sequences * length, config.vocab);
  const TokenBatch batch{*tokens, *tokens, sequences, length};
  const GlobalBatch global{
      .tokens = sequences * length, .sequences = sequences, .micro_batches = 1};
  rank.model.forward_backward(batch, global, recompute, {}, rank.context);
  rank.model.finish_step(rank.context);
  return rank.context.arena.high_water();
}
std::size_t high_water(const ModelConfig& config, Device device, std::int64_t sequences,
                       std::int64_t length, Recompute recompute) {
  ModelRank rank(config, DType::f32, device);
  return high_water(config, rank, sequences, length, recompute);
}

TEST(Plan, OfADenseModelIsExact) {
  for (const Recompute recompute : {Recompute::none, Recompute::activation, Recompute::block}) {
    for (const bool qk_norm : {false, true}) {
      ModelConfig config;
      config.layers = 3;
      config.hidden = 64;
      config.kv_heads = 2;
      config.qk_norm = qk_norm;
      EXPECT_EQ(high_water(config, Device::meta(), 3, 50, recompute),
                high_water(config, Device::cpu(), 3, 50, recompute));
    }
  }
}

TEST(Plan, OfAMoeModelIsCloseToTheRealNeed) {
  ModelConfig config;
  config.layers = 3;
  config.hidden = 64;
  config.moe.experts = 8;
  config.moe.top_k = 2;
  for (const Recompute recompute : {Recompute::none, Recompute::activation, Recompute::block}) {
    const auto planned = static_cast<double>(high_water(config, Device::meta(), 4, 128, recompute));
    const auto real = static_cast<double>(high_water(config, Device::cpu(), 4, 128, recompute));
    EXPECT_NEAR(planned, real, 0.03 * real);
  }
}

TEST(Plan, OfAnExpertParallelRankIsCloseToTheRealNeed) {
  ModelConfig config;
  config.layers = 2;
  config.hidden = 64;
  config.moe.experts = 8;
  config.moe.top_k = 2;
  ModelRank meta(config, make_planning_world(1, 2, 2), 2, DType::f32, Device::meta());
  const auto planned = static_cast<double>(high_water(config, meta, 4, 128, Recompute::none));
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    ModelRank rank(config, std::move(world), 2, DType::f32);
    const auto real = static_cast<double>(high_water(config, rank, 4, 128, Recompute::none));
    // Planned for rows up to the budget, half as many again as an even share.
    EXPECT_GE(planned, real);
    EXPECT_LE(planned, 1.35 * real);
    rank.mesh.shutdown();
  });
}

TEST(Plan, OfTheMoe7BModelRunsWithoutMemory) {
  const ModelConfig config = moe_7b(ActivationKind::polynorm);
  ModelRank rank(config, make_planning_world(3, 8, 8), 8, DType::f32, Device::meta());
  const OwnedTensor tokens({2 * 4096}, DType::i32, Device::meta());
  const TokenBatch batch{*tokens, *tokens, 2, 4096};
  const GlobalBatch global{.tokens = 16 * 4096, .sequences = 16, .micro_batches = 8};
  rank.model.forward_backward(batch, global, Recompute::none, {}, rank.context);
  const std::size_t kept = rank.context.arena.high_water();
  rank.context.arena.reset_high_water();
  rank.model.forward_backward(batch, global, Recompute::activation, {}, rank.context);
  // All but one layer's pre-activations.
  EXPECT_LE(rank.context.arena.high_water(), kept - std::size_t{15} * 2 * 4096 * 8 * 1536 * 4);
  rank.context.arena.reset_high_water();
  rank.model.forward_backward(batch, global, Recompute::block, {}, rank.context);
  const std::size_t recomputed = rank.context.arena.high_water();
  EXPECT_LT(recomputed, kept);
  // At least the pre-activations of every layer: 8 rows of 1536 per token.
  EXPECT_GT(kept, std::size_t{16} * 2 * 4096 * 8 * 1536 * 4);
  DecodingCache cache(config, 4096, DType::f32, Device::meta());
  const Tensor prompt = tokens->rows(0, 100);
  EXPECT_EQ(rank.model.next_token_logits(prompt, cache, rank.context).shape(), Shape{50304});
  EXPECT_EQ(rank.model.token_losses(batch, rank.context).shape(), Shape{2 * 4096});
}

}  // namespace
}  // namespace polymoe::test

// SPDX-License-Identifier: Apache-2.0
// The whole model where it trains: against PyTorch's losses and gradients, and over ranks.
#include <array>
#include <optional>

#include "kernels/convert/convert.h"
#include "moe/language_model.h"
#include "parallel/communication/device_world.h"
#include "runtime/copy.h"
#include "support/compare.h"
#include "support/devices.h"
#include "tests/moe/model_harness.h"
#include "tests/support/run_ranks.h"

namespace polymoe::test {
namespace {

/// f32 holds what the operations hold. In bf16 every activation and weight is rounded, and a tiny
/// model has few values over which that averages out.
double loss_tolerance(DType dtype) { return dtype == DType::bf16 ? 2e-2 : 2e-5; }
double gradient_tolerance(DType dtype) { return dtype == DType::bf16 ? 0.1 : 1e-4; }

void fill_on_device(ModelRank& rank) {
  rank.for_each_tensor([&](const LogicalTensor& tensor, const Tensor& value, const Tensor&) {
    const OwnedTensor exact = hashed_tensor(tensor.shape, DType::f32, tensor.name,
                                            parameter_distribution(tensor.name, tensor.shape));
    copy(*converted(*exact, value.dtype()), value, rank.context.stream);
    rank.context.stream.synchronize();
  });
}

class WholeModelDevices : public OnDevice {
 protected:
  std::unique_ptr<Communicator> on_device(std::unique_ptr<Communicator> host) {
    return make_device_world(std::move(host), device(), {.share_devices = true}).communicator;
  }
  std::unique_ptr<Communicator> alone() {
    return on_device(std::move(make_local_communicators(1).front()));
  }

  /// A batch's tokens and targets on the device, for as long as this object lives.
  struct Moved {
    OwnedTensor tokens, targets;
    TokenBatch batch;
  };
  Moved moved_batch(const TokenBatch& batch) {
    Moved result{moved(batch.tokens), moved(batch.targets), batch};
    result.batch.tokens = *result.tokens;
    result.batch.targets = *result.targets;
    return result;
  }

  /// What the rank's stream makes, when it is there.
  OwnedTensor result_of(ModelRank& rank, const Tensor& tensor) {
    rank.context.stream.synchronize();
    return fetched(tensor);
  }

  struct Step {
    LossTerms terms;
    std::map<std::string, std::vector<double>> gradients;
  };
  Step step(ModelRank& rank, const ReferenceBatch& batch, std::int64_t begin, std::int64_t end,
            std::int64_t micro_batches, Recompute recompute) {
    fill_on_device(rank);
    const TokenBatch slice = batch.slice(begin, end);
    std::optional<Moved> here;
    if (rank.store.device() != Device::cpu()) here = moved_batch(slice);
    Step result;
    result.terms = rank.model.forward_backward(here ? here->batch : slice,
                                               {.tokens = batch.predicted(),
                                                .sequences = ReferenceBatch::sequences,
                                                .micro_batches = micro_batches},
                                               recompute, {}, rank.context);
    for (const ParameterScope scope : all_parameter_scopes) {
      rank.store.group(scope).all_reduce(rank.store.gradients(scope), Reduction::sum,
                                         rank.context.stream);
    }
    rank.context.stream.synchronize();
    rank.for_each_tensor([&](const LogicalTensor& tensor, const Tensor&, const Tensor& gradient) {
      result.gradients[tensor.name] = values_of(*fetched(gradient));
    });
    return result;
  }
};
INSTANTIATE_TEST_SUITE_P(All, WholeModelDevices, ::testing::ValuesIn(placements()),
                         name_of_placement);

TEST_P(WholeModelDevices, LossAndEveryGradientMatchPyTorch) {
  for (const std::string name : {"dense", "moe", "shared"}) {
    SCOPED_TRACE(name);
    const ModelConfig config = reference_config(name);
    const Fixture fixture("language_model_" + name + ".txt");
    ModelRank rank(config, alone(), 1, dtype(), device());
    const Step result = step(rank, ReferenceBatch(name, config.vocab), 0, 4, 1, Recompute::none);
    const auto near = [&](double actual, const char* entry) {
      const double expected = fixture.scalar(entry);
      EXPECT_NEAR(actual, expected, loss_tolerance(dtype()) * std::abs(expected)) << entry;
    };
    near(result.terms.cross_entropy, "cross_entropy");
    // One expert chosen otherwise changes the loss of a tiny model's routing by much.
    if (dtype() != DType::bf16) near(result.terms.router.balance, "balance");
    near(result.terms.router.z, "z");
    EXPECT_EQ(result.gradients.size(), static_cast<std::size_t>(fixture.scalar("tensors")));
    // Likewise; those gradients are compared where every expert is chosen, below.
    if (dtype() == DType::bf16 && name != "dense") continue;
    for (const auto& [tensor, values] : result.gradients) {
      EXPECT_LT(norm_wise_error(values, fixture.values("d_" + tensor)), gradient_tolerance(dtype()))
          << tensor;
    }
  }
}

/// Windows of several documents, with padding behind them.
TEST_P(WholeModelDevices, DocumentsHaveTheLossAndEveryGradientOfPyTorch) {
  const ModelConfig config = reference_config("moe");
  const Fixture fixture("language_model_moe_documents.txt");
  const DocumentsBatch batch("moe", config.vocab);
  ModelRank rank(config, alone(), 1, dtype(), device());
  fill_on_device(rank);
  Moved here = moved_batch(batch.slice(0, 4));
  const OwnedTensor starts = moved(*batch.starts);
  here.batch.document_starts = *starts;
  const LossTerms terms = rank.model.forward_backward(here.batch,
                                                      {.tokens = batch.predicted(),
                                                       .sequences = DocumentsBatch::sequences,
                                                       .micro_batches = 1,
                                                       .padding = DocumentsBatch::padding},
                                                      Recompute::none, {}, rank.context);
  rank.context.stream.synchronize();
  const auto near = [&](double actual, const char* entry) {
    const double expected = fixture.scalar(entry);
    EXPECT_NEAR(actual, expected, loss_tolerance(dtype()) * std::abs(expected)) << entry;
  };
  near(terms.cross_entropy, "cross_entropy");
  near(terms.router.z, "z");
  if (dtype() == DType::bf16) return;  // one expert chosen otherwise changes much
  near(terms.router.balance, "balance");
  rank.for_each_tensor([&](const LogicalTensor& tensor, const Tensor&, const Tensor& gradient) {
    EXPECT_LT(norm_wise_error(values_of(*fetched(gradient)), fixture.values("d_" + tensor.name)),
              gradient_tolerance(dtype()))
        << tensor.name;
  });
}

/// Where every token takes every expert rounding chooses none: what is left of bf16 is its
/// rounding.
TEST_P(WholeModelDevices, EveryExpertChosenGivesTheGradientsOfTheCpuOnOneRankAndOnTwo) {
  for (const std::string name : {"moe", "shared"}) {
    SCOPED_TRACE(name);
    ModelConfig config = reference_config(name);
    config.moe.top_k = config.moe.experts;
    config.moe.capacity_factor = 0.0;
    config.moe.balance_scope = BalanceScope::global;
    const ReferenceBatch batch(name, config.vocab);
    ModelRank cpu(config, std::move(make_local_communicators(1).front()), 1, DType::f32,
                  Device::cpu());
    const Step expected = step(cpu, batch, 0, 4, 1, Recompute::none);
    for (const int ranks : {1, 2}) {
      SCOPED_TRACE(ranks);
      run_ranks(ranks, [&](std::unique_ptr<Communicator> host) {
        const int self = host->rank();
        const std::int64_t share = ReferenceBatch::sequences / ranks;
        ModelRank rank(config, on_device(std::move(host)), ranks, dtype(), device());
        const Step result =
            step(rank, batch, share * self, share * (self + 1), ranks, Recompute::none);
        EXPECT_FALSE(result.gradients.empty());
        for (const auto& [tensor, values] : result.gradients) {
          EXPECT_LT(norm_wise_error(values, expected.gradients.at(tensor)),
                    gradient_tolerance(dtype()))
              << tensor;
        }
        rank.mesh.shutdown();
      });
    }
  }
}

TEST_P(WholeModelDevices, RunsRepeatTheirBitsAndRecomputationKeepsThem) {
  const ModelConfig config = reference_config("moe");
  const ReferenceBatch batch("moe", config.vocab);
  ModelRank kept(config, alone(), 1, dtype(), device());
  const Step first = step(kept, batch, 0, 4, 1, Recompute::none);
  for (const Recompute recompute : {Recompute::activation, Recompute::block}) {
    ModelRank recomputed(config, alone(), 1, dtype(), device());
    const Step second = step(recomputed, batch, 0, 4, 1, recompute);
    EXPECT_EQ(first.terms.cross_entropy, second.terms.cross_entropy);
    EXPECT_EQ(first.terms.router.balance, second.terms.router.balance);
    EXPECT_EQ(first.gradients, second.gradients);
    EXPECT_LT(recomputed.context.arena.high_water(), kept.context.arena.high_water());
  }
}

/// Ranks as threads that share the device, where what they exchange goes through host memory.
TEST_P(WholeModelDevices, ExpertParallelRanksGiveTheGradientsOfOne) {
  for (const std::string name : {"moe", "shared"}) {
    SCOPED_TRACE(name);
    const ModelConfig config = reference_config(name);
    const ReferenceBatch batch(name, config.vocab);
    ModelRank single(config, alone(), 1, dtype(), device());
    // Of the scope `rank` the balance loss depends on the micro-batches.
    const Step expected = step(single, batch, 0, 4, 1, Recompute::none);
    const bool same_balance = config.moe.balance_scope != BalanceScope::rank;

    std::array<Step, 2> results;
    run_ranks(2, [&](std::unique_ptr<Communicator> host) {
      const int self = host->rank();
      ModelRank rank(config, on_device(std::move(host)), 2, dtype(), device());
      results[static_cast<std::size_t>(self)] =
          step(rank, batch, 2 * self, 2 * self + 2, 2, Recompute::none);
      rank.mesh.shutdown();
    });
    EXPECT_NEAR(results[0].terms.cross_entropy + results[1].terms.cross_entropy,
                expected.terms.cross_entropy,
                loss_tolerance(dtype()) * expected.terms.cross_entropy);
    // Of bf16 the gradients are compared where rounding chooses no expert, above.
    if (!same_balance || dtype() == DType::bf16) continue;
    for (const Step& result : results) {
      EXPECT_FALSE(result.gradients.empty());
      for (const auto& [tensor, values] : result.gradients) {
        EXPECT_LT(norm_wise_error(values, expected.gradients.at(tensor)), 1e-4) << tensor;
      }
    }
  }
}

TEST_P(WholeModelDevices, CachedLogitsEqualTheFullForwardPass) {
  const ModelConfig config = reference_config("moe");
  const ReferenceBatch batch("moe", config.vocab);
  ModelRank rank(config, alone(), 1, dtype(), device());
  fill_on_device(rank);
  const Moved sequence = moved_batch(batch.slice(0, 1));
  DecodingCache cache(config, ReferenceBatch::length, dtype(), device());
  for (const std::int64_t rows : {3, 1, 2, 1}) {
    const std::int64_t end = cache.length() + rows;
    const OwnedTensor step_by_step =
        result_of(rank, rank.model.next_token_logits(
                            sequence.batch.tokens.rows(cache.length(), end), cache, rank.context));
    DecodingCache fresh(config, ReferenceBatch::length, dtype(), device());
    const OwnedTensor at_once = result_of(
        rank,
        rank.model.next_token_logits(sequence.batch.tokens.rows(0, end), fresh, rank.context));
    EXPECT_LT(relative_error(*step_by_step, *at_once), dtype() == DType::bf16 ? 5e-2 : 1e-5);
  }
}

/// Sequences of other lengths: prompts together, then single tokens, among which one more begins.
TEST_P(WholeModelDevices, SequencesInOnePassHaveTheLogitsThatTheyHaveAlone) {
  for (const std::string name : {"dense", "moe", "shared"}) {
    SCOPED_TRACE(name);
    ModelConfig config = reference_config(name);
    if (config.moe.experts > 0) config.moe.top_k = config.moe.experts;  // rounding chooses none
    const ReferenceBatch batch(name, config.vocab);
    ModelRank rank(config, alone(), 1, dtype(), device());
    fill_on_device(rank);
    std::vector<std::unique_ptr<DecodingCache>> caches;
    for (int s = 0; s < 3; ++s)
      caches.push_back(
          std::make_unique<DecodingCache>(config, ReferenceBatch::length, dtype(), device()));
    const std::vector<std::vector<std::int64_t>> passes = {{4, 1, 0}, {1, 1, 3}, {1, 1, 1}};
    for (const std::vector<std::int64_t>& rows : passes) {
      const Arena::Scope scope(rank.context.arena);
      std::vector<Continuation> sequences;
      std::vector<std::size_t> who;
      std::vector<std::int32_t> next;
      for (std::size_t s = 0; s < rows.size(); ++s) {
        if (rows[s] == 0) continue;
        const std::int32_t* const ids = batch.tokens->data<std::int32_t>() +
                                        static_cast<std::int64_t>(s) * ReferenceBatch::length +
                                        caches[s]->length();
        next.insert(next.end(), ids, ids + rows[s]);
        sequences.push_back({.cache = caches[s].get(), .tokens = rows[s]});
        who.push_back(s);
      }
      const OwnedTensor tokens = moved(
          Tensor(next.data(), {static_cast<std::int64_t>(next.size())}, DType::i32, Device::cpu()));
      const OwnedTensor together =
          result_of(rank, rank.model.next_token_logits(*tokens, sequences, rank.context));
      for (std::size_t i = 0; i < who.size(); ++i) {
        const auto first = static_cast<std::int64_t>(who[i]) * ReferenceBatch::length;
        const OwnedTensor seen = moved(batch.tokens->rows(first, first + caches[who[i]]->length()));
        DecodingCache fresh(config, ReferenceBatch::length, dtype(), device());
        const OwnedTensor by_itself =
            result_of(rank, rank.model.next_token_logits(*seen, fresh, rank.context));
        const auto row = static_cast<std::int64_t>(i);
        EXPECT_LT(relative_error(together->rows(row, row + 1), *by_itself),
                  dtype() == DType::bf16 ? 5e-2 : 1e-5);
      }
    }
  }
}

/// Three sequences that begin alike, and one of nothing: each row once has the losses of the rows
/// of whole sequences.
TEST_P(WholeModelDevices, SharedRowsHaveTheLossesOfWholeSequences) {
  constexpr std::int32_t length = 128, known = 64, sequences = 3, own = length - known;
  ModelConfig config = reference_config("moe");
  config.hidden = 64;
  config.heads = 2;
  config.kv_heads = 1;
  config.context = length;
  config.moe.top_k = config.moe.experts;  // rounding chooses none
  ModelRank rank(config, alone(), 1, dtype(), device());
  fill_on_device(rank);

  using Ids = std::vector<std::int32_t>;
  const auto vocab = static_cast<std::int32_t>(config.vocab);
  const auto token_at = [&](std::int32_t sequence, std::int32_t place) {
    return (7 * place + (place < known ? 0 : sequence + place * sequence)) % vocab;
  };
  Ids whole, targets, tokens, row_of((sequences + 1) * length, 0), query_of, place_of, starts,
      predicting, predicted;
  for (std::int32_t s = 0; s < sequences; ++s) {
    for (std::int32_t place = 0; place < length; ++place) {
      whole.push_back(token_at(s, place));
      targets.push_back(token_at(s, (place + 1) % length));
      const bool is_new = s == 0 || place >= known;
      const auto row = is_new ? static_cast<std::int32_t>(tokens.size()) : place;
      row_of[static_cast<std::size_t>(s * length + place)] = row;
      if (!is_new) continue;
      tokens.push_back(whole.back());
      starts.push_back(row - place);
      place_of.push_back(static_cast<std::int32_t>(query_of.size()));
      query_of.push_back(row);
      predicting.push_back(row);
      predicted.push_back(targets.back());
    }
  }
  query_of.insert(query_of.end(), own, 0);
  const auto ids = [&](Ids& values) {
    return moved(Tensor(values.data(), {static_cast<std::int64_t>(values.size())}, DType::i32,
                        Device::cpu()));
  };
  const OwnedTensor all_tokens = ids(whole), all_targets = ids(targets), new_tokens = ids(tokens),
                    keys = ids(row_of), queries = ids(query_of), places = ids(place_of),
                    begins = ids(starts), from = ids(predicting), to = ids(predicted);
  const Arena::Scope scope(rank.context.arena);
  const auto losses = [&](const Tensor& tensor) { return values_of(*result_of(rank, tensor)); };
  const std::vector<double> full = losses(rank.model.token_losses({.tokens = *all_tokens,
                                                                   .targets = *all_targets,
                                                                   .sequences = sequences,
                                                                   .length = length,
                                                                   .document_starts = {}},
                                                                  rank.context));
  const std::vector<double> shared = losses(rank.model.shared_token_losses(
      {.rows = {.groups = {{.sequences = 1, .length = length},
                           {.sequences = sequences - 1, .length = length, .known = known},
                           {.sequences = 1, .length = length, .known = known}},
                .row_of = *keys,
                .query_of = *queries,
                .place_of = *places,
                .starts = *begins},
       .tokens = *new_tokens,
       .predicting = *from,
       .targets = *to},
      rank.context));
  std::vector<double> expected;
  for (std::int32_t s = 0; s < sequences; ++s)
    for (std::int32_t place = s == 0 ? 0 : known; place < length; ++place)
      expected.push_back(full[static_cast<std::size_t>(s * length + place)]);
  ASSERT_EQ(shared.size(), expected.size());
  EXPECT_LT(norm_wise_error(shared, expected), dtype() == DType::bf16 ? 2e-2 : 1e-5);
}

/// From the third single token on a GPU submits what it recorded at the second.
TEST_P(WholeModelDevices, RecordedStepsHaveTheBitsOfThoseSubmittedByKernel) {
  for (const std::string name : {"dense", "moe", "shared"}) {
    SCOPED_TRACE(name);
    ModelConfig config = reference_config(name);
    config.moe.capacity_factor = 0.0;  // with one a step waits for the host, and is not recorded
    const ReferenceBatch batch(name, config.vocab);
    ModelRank rank(config, alone(), 1, dtype(), device());
    fill_on_device(rank);
    const Moved sequences = moved_batch(batch.slice(0, 2));
    DecodingCache recorded(config, ReferenceBatch::length, dtype(), device());
    // The second sequence runs what the first one recorded.
    for (const std::int64_t first : {std::int64_t{0}, ReferenceBatch::length}) {
      recorded.clear();
      DecodingCache by_kernel(config, ReferenceBatch::length, dtype(), device(),
                              StepSubmission::by_kernel);
      for (std::int64_t end = 2; end <= ReferenceBatch::length; ++end) {
        const std::int64_t begin = end == 2 ? 0 : end - 1;
        const Arena::Scope scope(rank.context.arena);
        const Tensor tokens = sequences.batch.tokens.rows(first + begin, first + end);
        const OwnedTensor expected =
            result_of(rank, rank.model.next_token_logits(tokens, by_kernel, rank.context));
        const OwnedTensor actual =
            result_of(rank, rank.model.next_token_logits(tokens, recorded, rank.context));
        EXPECT_TRUE(bitwise_equal(*actual, *expected)) << "token " << end;
        EXPECT_EQ(recorded.length(), end);
      }
    }
  }
}

}  // namespace
}  // namespace polymoe::test

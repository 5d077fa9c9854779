// SPDX-License-Identifier: Apache-2.0
#include "moe/language_model.h"

#include "moe/model_size.h"
#include "runtime/copy.h"
#include "tests/moe/model_harness.h"

namespace polymoe::test {
namespace {

struct Case {
  const char* name;
  DType dtype;
};

class WholeModel : public ::testing::TestWithParam<Case> {
 protected:
  double tolerance() const { return GetParam().dtype == DType::f64 ? 1e-10 : 1e-5; }
};

INSTANTIATE_TEST_SUITE_P(Cases, WholeModel,
                         ::testing::Values(Case{"moe", DType::f64}, Case{"moe", DType::f32},
                                           Case{"shared", DType::f64}, Case{"shared", DType::f32},
                                           Case{"dense", DType::f64}, Case{"dense", DType::f32}),
                         [](const auto& test) {
                           return std::string(test.param.name) + "_" + name_of(test.param.dtype);
                         });

GlobalBatch global_of(const ReferenceBatch& batch, std::int64_t micro_batches) {
  return {.tokens = batch.predicted(),
          .sequences = ReferenceBatch::sequences,
          .micro_batches = micro_batches};
}

void expect_near_relative(double actual, double expected, double tolerance, const char* what) {
  EXPECT_NEAR(actual, expected, tolerance * std::abs(expected)) << what;
}

TEST_P(WholeModel, LossAndEveryGradientMatchPyTorch) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const Fixture fixture(std::string("language_model_") + name + ".txt");
  const ReferenceBatch batch(name, config.vocab);
  ModelRank rank(config, dtype);
  rank.fill_with_reference_values();

  const LossTerms terms = rank.model.forward_backward(batch.slice(0, 4), global_of(batch, 1),
                                                      Recompute::none, {}, rank.context);
  expect_near_relative(terms.cross_entropy, fixture.scalar("cross_entropy"), tolerance(), "loss");
  expect_near_relative(terms.router.balance, fixture.scalar("balance"), tolerance(), "balance");
  expect_near_relative(terms.router.z, fixture.scalar("z"), tolerance(), "z");

  std::size_t compared = 0;
  rank.for_each_tensor([&](const LogicalTensor& tensor, const Tensor&, const Tensor& gradient) {
    const std::string entry = "d_" + tensor.name;
    ASSERT_TRUE(fixture.contains(entry)) << entry;
    ASSERT_EQ(fixture.shape(entry), tensor.shape) << entry;
    EXPECT_LT(norm_wise_error(values_of(gradient), fixture.values(entry)), tolerance()) << entry;
    ++compared;
  });
  EXPECT_EQ(compared, static_cast<std::size_t>(fixture.scalar("tensors")));
  EXPECT_EQ(rank.context.arena.mark(), 0u);
}

TEST_P(WholeModel, TokenLossesMatchPyTorch) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const Fixture fixture(std::string("language_model_") + name + ".txt");
  const ReferenceBatch batch(name, config.vocab);
  ModelRank rank(config, dtype);
  rank.fill_with_reference_values();
  const Tensor losses = rank.model.token_losses(batch.slice(0, 4), rank.context);
  EXPECT_LT(norm_wise_error(values_of(losses), fixture.values("token_losses")), tolerance());
}

TEST_P(WholeModel, RecomputationGivesTheSameBits) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const ReferenceBatch batch(name, config.vocab);
  ModelRank kept(config, dtype);
  kept.fill_with_reference_values();
  const LossTerms a = kept.model.forward_backward(batch.slice(0, 4), global_of(batch, 1),
                                                  Recompute::none, {}, kept.context);
  std::size_t high_water = kept.context.arena.high_water();
  for (const Recompute recompute : {Recompute::activation, Recompute::block}) {
    ModelRank recomputed(config, dtype);
    recomputed.fill_with_reference_values();
    const LossTerms b = recomputed.model.forward_backward(batch.slice(0, 4), global_of(batch, 1),
                                                          recompute, {}, recomputed.context);
    EXPECT_EQ(a.cross_entropy, b.cross_entropy);
    EXPECT_EQ(a.router.balance, b.router.balance);
    EXPECT_EQ(a.router.z, b.router.z);
    for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert}) {
      EXPECT_TRUE(bitwise_equal(kept.store.gradients(scope), recomputed.store.gradients(scope)));
    }
    EXPECT_LT(recomputed.context.arena.high_water(),
              high_water);  // each keeps less than the one before
    EXPECT_EQ(recomputed.context.arena.mark(), 0u);
    high_water = recomputed.context.arena.high_water();
  }
}

// What is kept is the caller's choice of each batch, not the model's.
TEST_P(WholeModel, RecomputationMayChangeFromBatchToBatch) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const ReferenceBatch batch(name, config.vocab);
  ModelRank rank(config, dtype), kept(config, dtype);
  rank.fill_with_reference_values();
  kept.fill_with_reference_values();
  for (const Recompute recompute :
       {Recompute::activation, Recompute::none, Recompute::block, Recompute::activation}) {
    rank.model.forward_backward(batch.slice(0, 4), global_of(batch, 4), recompute, {},
                                rank.context);
    kept.model.forward_backward(batch.slice(0, 4), global_of(batch, 4), Recompute::none, {},
                                kept.context);
  }
  for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert}) {
    EXPECT_TRUE(bitwise_equal(kept.store.gradients(scope), rank.store.gradients(scope)));
  }
}

TEST_P(WholeModel, MicroBatchesAddUpToTheWhole) {
  const auto [name, dtype] = GetParam();
  ModelConfig config = reference_config(name);
  config.moe.balance_scope = BalanceScope::sequence;
  const ReferenceBatch batch(name, config.vocab);
  ModelRank whole(config, dtype), parts(config, dtype);
  for (ModelRank* rank : {&whole, &parts}) rank->fill_with_reference_values();
  const LossTerms expected = whole.model.forward_backward(batch.slice(0, 4), global_of(batch, 1),
                                                          Recompute::none, {}, whole.context);
  double loss = 0;
  for (const auto& [begin, end] : {std::pair{0, 1}, {1, 1}, {1, 4}}) {
    const LossTerms terms = parts.model.forward_backward(
        batch.slice(begin, end), global_of(batch, 3), Recompute::none, {}, parts.context);
    loss += terms.cross_entropy + terms.router.balance + terms.router.z;
  }
  expect_near_relative(loss, expected.cross_entropy + expected.router.balance + expected.router.z,
                       tolerance(), "loss");
  const auto gradients = parts.gradients();
  for (const auto& [tensor, values] : whole.gradients()) {
    EXPECT_LT(norm_wise_error(gradients.at(tensor), values), tolerance()) << tensor;
  }
}

TEST_P(WholeModel, SegmentsAreDoneInReverseAndTheirGradientsComplete) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const ReferenceBatch batch(name, config.vocab);
  ModelRank rank(config, dtype);
  rank.fill_with_reference_values();
  std::vector<int> order;
  std::map<std::string, std::vector<double>> when_done;
  rank.model.forward_backward(
      batch.slice(0, 4), global_of(batch, 1), Recompute::none,
      [&](int segment) {
        order.push_back(segment);
        for (const Parameter& parameter : rank.store.parameters()) {
          if (parameter.segment == segment) {
            when_done[parameter.logical.front().name] = values_of(parameter.gradient);
          }
        }
      },
      rank.context);
  EXPECT_EQ(order, (std::vector<int>{3, 2, 1, 0}));
  EXPECT_EQ(rank.store.segments(), 4);
  for (const Parameter& parameter : rank.store.parameters()) {
    const std::string& first = parameter.logical.front().name;
    EXPECT_EQ(when_done.at(first), values_of(parameter.gradient)) << first;
    const int expected = first == "embedding.weight"      ? 0
                         : first.starts_with("layers.0.") ? 1
                         : first.starts_with("layers.1.") ? 2
                                                          : 3;
    EXPECT_EQ(parameter.segment, expected) << first;
  }
}

TEST_P(WholeModel, CachedLogitsEqualTheFullForwardPass) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const ReferenceBatch batch(name, config.vocab);
  ModelRank rank(config, dtype);
  rank.fill_with_reference_values();
  const TokenBatch sequence = batch.slice(0, 1);
  const std::vector<double> losses = values_of(rank.model.token_losses(sequence, rank.context));

  DecodingCache cache(config, ReferenceBatch::length, dtype, Device::cpu());
  for (const std::int64_t rows : {3, 1, 2, 1}) {
    const std::int64_t end = cache.length() + rows;
    const std::vector<double> logits = values_of(rank.model.next_token_logits(
        sequence.tokens.rows(cache.length(), end), cache, rank.context));
    ASSERT_EQ(cache.length(), end);
    ASSERT_EQ(logits.size(), static_cast<std::size_t>(config.vocab));
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit);
    const auto last = static_cast<std::size_t>(end - 1);
    const auto target = static_cast<std::size_t>(sequence.targets.data<std::int32_t>()[last]);
    EXPECT_NEAR(std::log(sum) - logits.at(target), losses[last], tolerance() * losses[last]);

    DecodingCache fresh(config, ReferenceBatch::length, dtype, Device::cpu());
    const Tensor at_once =
        rank.model.next_token_logits(sequence.tokens.rows(0, end), fresh, rank.context);
    EXPECT_LT(norm_wise_error(logits, values_of(at_once)), tolerance());
  }
  EXPECT_THROW(rank.model.next_token_logits(sequence.tokens.rows(0, 1), cache, rank.context),
               InvalidArgument);
}

// Sequences of other lengths, of which one begins while others go on: two, three, then two again.
TEST_P(WholeModel, SequencesInOnePassHaveTheLogitsThatTheyHaveAlone) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const ReferenceBatch batch(name, config.vocab);
  ModelRank rank(config, dtype);
  rank.fill_with_reference_values();
  const auto new_cache = [&, type = dtype] {
    return DecodingCache(config, ReferenceBatch::length, type, Device::cpu());
  };
  const auto tokens_of = [&](std::size_t sequence, std::int64_t begin, std::int64_t end) {
    return batch.slice(static_cast<std::int64_t>(sequence), batch.sequences)
        .tokens.rows(begin, end);
  };
  std::vector<DecodingCache> caches;
  for (int s = 0; s < 3; ++s) caches.push_back(new_cache());
  const std::vector<std::vector<std::int64_t>> passes = {
      {4, 1, 0}, {1, 1, 2}, {1, 3, 0}, {1, 1, 1}};
  for (const std::vector<std::int64_t>& rows : passes) {
    const Arena::Scope scope(rank.context.arena);
    std::vector<Continuation> sequences;
    std::vector<std::size_t> who;
    std::int64_t all = 0;
    for (std::size_t s = 0; s < rows.size(); ++s) {
      if (rows[s] == 0) continue;
      sequences.push_back({.cache = &caches[s], .tokens = rows[s]});
      who.push_back(s);
      all += rows[s];
    }
    const Tensor tokens = rank.context.arena.allocate({all}, DType::i32);
    for (std::int64_t row = 0; const std::size_t s : who) {
      const std::int64_t begin = caches[s].length();
      copy(tokens_of(s, begin, begin + rows[s]), tokens.rows(row, row + rows[s]),
           rank.context.stream);
      row += rows[s];
    }
    const Tensor logits = rank.model.next_token_logits(tokens, sequences, rank.context);
    ASSERT_EQ(logits.shape(), (Shape{std::ssize(who), config.vocab}));
    for (std::size_t i = 0; i < who.size(); ++i) {
      DecodingCache fresh = new_cache();
      const Tensor alone = rank.model.next_token_logits(
          tokens_of(who[i], 0, caches[who[i]].length()), fresh, rank.context);
      const auto row = static_cast<std::int64_t>(i);
      const Tensor together = logits.rows(row, row + 1);
      EXPECT_LT(norm_wise_error(values_of(together), values_of(alone)), tolerance());
    }
  }
  EXPECT_EQ(caches[0].length(), 7);
  EXPECT_EQ(caches[1].length(), 6);
  EXPECT_EQ(caches[2].length(), 3);
  const Tensor none = rank.context.arena.allocate({0}, DType::i32);
  const std::span<const Continuation> nobody;
  EXPECT_EQ(rank.model.next_token_logits(none, nobody, rank.context).shape(),
            (Shape{0, config.vocab}));
  const std::vector<Continuation> full = {{.cache = &caches[1]}, {.cache = &caches[0]}};
  EXPECT_THROW(rank.model.next_token_logits(tokens_of(0, 0, 2), full, rank.context),
               InvalidArgument);
}

// Sums of rows in f64 have one order, however many there are: which sequences stand beside one
// changes no bit. (Alone, a step adds a token's experts in another order.)
TEST(LanguageModel, SequencesInOnePassHaveTheSameBitsBesideAnyOthersInF64) {
  for (const std::string name : {"dense", "moe", "shared"}) {
    SCOPED_TRACE(name);
    const ModelConfig config = reference_config(name);
    const ReferenceBatch batch(name, config.vocab);
    ModelRank rank(config, DType::f64);
    rank.fill_with_reference_values();
    const auto logits_of = [&](const std::vector<std::int64_t>& sequences) {
      std::vector<std::unique_ptr<DecodingCache>> caches;
      std::vector<Continuation> all;
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        caches.push_back(std::make_unique<DecodingCache>(config, ReferenceBatch::length, DType::f64,
                                                         Device::cpu()));
        all.push_back({.cache = caches.back().get()});
      }
      std::vector<double> last;
      for (std::int64_t place = 0; place < ReferenceBatch::length; ++place) {
        const Arena::Scope scope(rank.context.arena);
        const Tensor tokens = rank.context.arena.allocate({std::ssize(sequences)}, DType::i32);
        for (std::size_t i = 0; i < sequences.size(); ++i)
          tokens.data<std::int32_t>()[i] =
              batch.tokens->data<std::int32_t>()[sequences[i] * ReferenceBatch::length + place];
        last = values_of(rank.model.next_token_logits(tokens, all, rank.context).rows(0, 1));
      }
      return last;
    };
    EXPECT_EQ(logits_of({1, 3}), logits_of({1, 0, 2, 2, 3}));
    EXPECT_LT(norm_wise_error(logits_of({1, 3}), logits_of({1})), 1e-12);
  }
}

TEST(LanguageModel, ThatDropsTokensBySequenceTakesPromptsOneByOne) {
  ModelConfig config = reference_config("moe");
  config.moe.capacity_factor = 1.0;
  const ReferenceBatch batch("moe", config.vocab);
  ModelRank rank(config, DType::f64);
  rank.fill_with_reference_values();
  DecodingCache first(config, ReferenceBatch::length, DType::f64, Device::cpu());
  DecodingCache second(config, ReferenceBatch::length, DType::f64, Device::cpu());
  const std::vector<Continuation> both = {{.cache = &first, .tokens = 2}, {.cache = &second}};
  EXPECT_THROW(rank.model.next_token_logits(batch.tokens->rows(0, 3), both, rank.context),
               InvalidArgument);
  EXPECT_EQ(first.length(), 0);
  // One token each: nothing is dropped beside others that alone is not.
  const std::vector<Continuation> singles = {{.cache = &first}, {.cache = &second}};
  const std::vector<double> together =
      values_of(rank.model.next_token_logits(batch.tokens->rows(0, 2), singles, rank.context));
  first.clear();
  const std::vector<double> alone =
      values_of(rank.model.next_token_logits(batch.tokens->rows(0, 1), first, rank.context));
  EXPECT_LT(norm_wise_error({together.begin(), together.begin() + config.vocab}, alone), 1e-12);
}

// Theorem 1 of arXiv:2411.03884: a ReLU network is a PolyReLU network of the same size. Lemma 1
// gives ReLU squared and, in the same way, every other polynomial of ReLU.
TEST(LanguageModel, OfReluEqualsThatOfPolyReluWithTheSameWeights) {
  struct Special {
    ActivationKind kind;
    std::vector<double> coefficients;
  };
  for (const bool mixture : {false, true}) {
    for (const Special& special : {Special{ActivationKind::relu, {0, 1, 0, 0}},
                                   Special{ActivationKind::relu2, {0, 0, 1, 0}}}) {
      ModelConfig config = reference_config(mixture ? "moe" : "dense");
      config.activation.kind = special.kind;
      ModelRank plain(config, DType::f64);
      plain.fill_with_reference_values();
      config.activation.kind = ActivationKind::polyrelu;
      ModelRank poly(config, DType::f64);
      poly.fill_with_reference_values();
      poly.for_each_tensor([&](const LogicalTensor& tensor, const Tensor& value, const Tensor&) {
        if (!tensor.name.ends_with("coefficients")) return;
        std::copy(special.coefficients.begin(), special.coefficients.end(), value.data<double>());
      });
      EXPECT_EQ(poly.store.total_elements(), plain.store.total_elements() + 2 * 4);
      const ReferenceBatch batch("relu", config.vocab);
      const Tensor expected = plain.model.token_losses(batch.slice(0, 4), plain.context);
      const Tensor losses = poly.model.token_losses(batch.slice(0, 4), poly.context);
      EXPECT_LT(relative_error(losses, expected), 1e-14) << name_of(special.kind);
    }
  }
}

TEST(LanguageModel, ListsEveryViolationOfItsConfiguration) {
  ModelConfig config = reference_config("moe");
  config.layers = 0;
  config.moe.top_k = 9;
  ProcessMesh mesh(std::move(make_local_communicators(1).front()), 1);
  ParameterStore store(mesh);
  try {
    const LanguageModel model(config, mesh, store);
    FAIL() << "an invalid configuration was taken";
  } catch (const InvalidArgument& error) {
    const std::string line = error.what();
    EXPECT_NE(line.find("model.layers = 0"), std::string::npos) << line;
    EXPECT_NE(line.find("moe.top_k = 9"), std::string::npos) << line;
  }
}

TEST(LanguageModel, RefusesABatchThatDoesNotFit) {
  const ModelConfig config = reference_config("dense");
  const ReferenceBatch batch("dense", config.vocab);
  ModelRank rank(config, DType::f32);
  TokenBatch wrong = batch.slice(0, 2);
  wrong.sequences = 3;
  EXPECT_THROW(rank.model.token_losses(wrong, rank.context), InvalidArgument);
  EXPECT_THROW(
      rank.model.forward_backward(batch.slice(0, 2), {}, Recompute::none, {}, rank.context),
      InvalidArgument);
  batch.tokens->data<std::int32_t>()[3] = 19;
  EXPECT_THROW(rank.model.token_losses(batch.slice(0, 2), rank.context), InvalidArgument);
}

TEST(LanguageModel, FlopsPerTokenOfTheDense1BModel) {
  ModelConfig config;
  config.layers = 24;
  config.hidden = 2048;
  config.heads = 16;
  config.vocab = 32000;
  config.context = 4096;
  config.activation.kind = ActivationKind::swiglu;
  // 6 per weight of a product, and 12 * 2048 per key, 2048.5 keys on average, in 24 layers.
  EXPECT_EQ(training_flops_per_token(config), 6.0 * 1'279'787'008 + 24 * 12 * 2048 * 2048.5);
}

}  // namespace
}  // namespace polymoe::test

// SPDX-License-Identifier: Apache-2.0
// Windows of several documents, with padding behind them.
#include "support/temporary_directory.h"
#include "tests/moe/model_harness.h"
#include "tests/support/run_ranks.h"

namespace polymoe::test {
namespace {

struct Case {
  const char* name;
  DType dtype;
};

class Documents : public ::testing::TestWithParam<Case> {
 protected:
  double tolerance() const { return GetParam().dtype == DType::f64 ? 1e-10 : 1e-5; }
};

INSTANTIATE_TEST_SUITE_P(Cases, Documents,
                         ::testing::Values(Case{"moe", DType::f64}, Case{"moe", DType::f32},
                                           Case{"shared", DType::f64}, Case{"shared", DType::f32}),
                         [](const auto& test) {
                           return std::string(test.param.name) + "_" + name_of(test.param.dtype);
                         });

GlobalBatch global_of(const DocumentsBatch& batch, std::int64_t micro_batches) {
  return {.tokens = batch.predicted(),
          .sequences = DocumentsBatch::sequences,
          .micro_batches = micro_batches,
          .padding = DocumentsBatch::padding};
}

/// The reference ran every document as a sequence of its own, and knows no padding.
TEST_P(Documents, LossAndEveryGradientMatchPyTorch) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const Fixture fixture(std::string("language_model_") + name + "_documents.txt");
  const DocumentsBatch batch(name, config.vocab);
  for (const Recompute recompute : {Recompute::none, Recompute::block}) {
    ModelRank rank(config, dtype);
    rank.fill_with_reference_values();
    const LossTerms terms = rank.model.forward_backward(batch.slice(0, 4), global_of(batch, 1),
                                                        recompute, {}, rank.context);
    const auto near = [&](double actual, const char* entry) {
      const double expected = fixture.scalar(entry);
      EXPECT_NEAR(actual, expected, tolerance() * std::abs(expected)) << entry;
    };
    near(terms.cross_entropy, "cross_entropy");
    near(terms.router.balance, "balance");
    near(terms.router.z, "z");
    std::size_t compared = 0;
    rank.for_each_tensor([&](const LogicalTensor& tensor, const Tensor&, const Tensor& gradient) {
      const std::string entry = "d_" + tensor.name;
      EXPECT_LT(norm_wise_error(values_of(gradient), fixture.values(entry)), tolerance()) << entry;
      ++compared;
    });
    EXPECT_EQ(compared, static_cast<std::size_t>(fixture.scalar("tensors")));
    for (const RoutingStatistics& layer : rank.model.finish_step(rank.context)) {
      std::int64_t slots = 0;
      for (const std::int64_t rows : layer.expert_rows) slots += rows;
      EXPECT_EQ(slots,
                (DocumentsBatch::sequences * DocumentsBatch::length - DocumentsBatch::padding) *
                    config.moe.top_k);
      EXPECT_EQ(layer.dropped, 0);
    }
  }
}

TEST_P(Documents, AWindowHasTheLossesOfItsDocumentsOneByOne) {
  const auto [name, dtype] = GetParam();
  const ModelConfig config = reference_config(name);
  const DocumentsBatch batch(name, config.vocab);
  ModelRank rank(config, dtype);
  rank.fill_with_reference_values();
  const std::vector<double> together =
      values_of(rank.model.token_losses(batch.slice(0, 4), rank.context));
  const auto* starts = batch.starts->data<std::int32_t>();
  std::vector<double> alone;
  for (std::int64_t begin = 0; begin < batch.starts->elements();) {
    std::int64_t end = begin + 1;
    while (end < batch.starts->elements() && end % DocumentsBatch::length != 0 &&
           starts[end] == starts[begin])
      ++end;
    const TokenBatch document{.tokens = batch.tokens->rows(begin, end),
                              .targets = batch.targets->rows(begin, end),
                              .sequences = 1,
                              .length = end - begin};
    const std::vector<double> losses = values_of(rank.model.token_losses(document, rank.context));
    alone.insert(alone.end(), losses.begin(), losses.end());
    begin = end;
  }
  EXPECT_LT(norm_wise_error(together, alone), tolerance() * 0.1);
}

struct Split {
  int ranks;
  std::int64_t passes;
};

/// One step of four windows by `split`, on ranks that share the experts where `expert_parallel`.
std::vector<std::map<std::string, std::vector<double>>> gradients_of(const ModelConfig& config,
                                                                     const DocumentsBatch& batch,
                                                                     Split split,
                                                                     int expert_parallel,
                                                                     double* loss) {
  std::vector<std::map<std::string, std::vector<double>>> gradients(
      static_cast<std::size_t>(split.ranks));
  run_ranks(split.ranks, [&](std::unique_ptr<Communicator> world) {
    const auto self = static_cast<std::int64_t>(world->rank());
    ModelRank rank(config, std::move(world), expert_parallel, DType::f64);
    rank.fill_with_reference_values();
    const std::int64_t each = DocumentsBatch::sequences / (split.ranks * split.passes);
    double sum = 0.0;
    for (std::int64_t pass = 0; pass < split.passes; ++pass) {
      const std::int64_t first = (pass * split.ranks + self) * each;
      const LossTerms terms = rank.model.forward_backward(
          batch.slice(first, first + each), global_of(batch, split.ranks * split.passes),
          Recompute::none, {}, rank.context);
      sum += terms.cross_entropy + terms.router.balance + terms.router.z;
    }
    rank.reduce_gradients();
    rank.mesh.world().all_reduce(Tensor(&sum, {1}, DType::f64, Device::cpu()), Reduction::sum,
                                 rank.context.stream);
    if (self == 0) *loss = sum;
    gradients[static_cast<std::size_t>(self)] = rank.gradients();
    rank.mesh.shutdown();
  });
  return gradients;
}

TEST(DocumentsOnRanks, EverySplitOfABatchGivesTheSameLossAndGradients) {
  const ModelConfig config = reference_config("moe");
  const DocumentsBatch batch("moe", config.vocab);
  double expected_loss = 0.0;
  const auto expected = gradients_of(config, batch, {1, 1}, 1, &expected_loss).front();
  for (const Split split : {Split{1, 4}, Split{4, 1}, Split{2, 2}}) {
    for (const int expert_parallel : {1, split.ranks}) {
      SCOPED_TRACE(std::to_string(split.ranks) + " ranks, expert " +
                   std::to_string(expert_parallel));
      double loss = 0.0;
      for (const auto& rank : gradients_of(config, batch, split, expert_parallel, &loss))
        for (const auto& [tensor, values] : rank)
          EXPECT_LT(norm_wise_error(values, expected.at(tensor)), 1e-12) << tensor;
      EXPECT_NEAR(loss, expected_loss, 1e-12 * expected_loss);
    }
  }
}

/// What padding holds is nobody's matter.
TEST(DocumentsOnRanks, PaddingLeavesNoTrace) {
  const ModelConfig config = reference_config("shared");
  const DocumentsBatch batch("shared", config.vocab), other("shared", config.vocab);
  for (std::int64_t i = 0; i < other.tokens->elements(); ++i)
    if (other.starts->data<std::int32_t>()[i] == no_document)
      other.tokens->data<std::int32_t>()[i] = 5;
  double loss = 0.0, other_loss = 0.0;
  const auto gradients = gradients_of(config, batch, {1, 1}, 1, &loss);
  EXPECT_EQ(gradients, gradients_of(config, other, {1, 1}, 1, &other_loss));
  EXPECT_EQ(loss, other_loss);
}

TEST(DocumentsErrors, NameTheRow) {
  const ModelConfig config = reference_config("moe");
  const DocumentsBatch batch("moe", config.vocab);
  ModelRank rank(config, DType::f32);
  rank.fill_with_reference_values();
  batch.starts->data<std::int32_t>()[2] = 1;
  EXPECT_EQ(
      message_of<InvalidArgument>(
          [&] { rank.model.token_losses(batch.slice(0, 1), rank.context); }),
      "attention: document_starts of sequence 0 has 1 at position 2, expected the position of "
      "its document's first row, or 1073741824 from there to the end");
}

}  // namespace
}  // namespace polymoe::test

// SPDX-License-Identifier: Apache-2.0
#include "layers/output_layer.h"

#include "layers/embedding_layer.h"
#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using Output = EveryDType;
POLYMOE_EVERY_DTYPE(Output);

const OutputLayer::Settings settings{
    .vocab = LayerHarness::vocab, .hidden = LayerHarness::hidden, .initializer = {}};

OwnedTensor targets() {
  OwnedTensor result = hashed_integers("output.targets", LayerHarness::rows, LayerHarness::vocab);
  result->data<std::int32_t>()[3] = -1;
  return result;
}

/// The stream x as a sum of two halves, one of which the layer overwrites.
struct Halves {
  Halves(LayerHarness& harness, const OwnedTensor& whole)
      : stream{harness.fresh(), harness.fresh()} {
    for (std::int64_t i = 0; i < whole->elements(); ++i) {
      for (const Tensor& half : {stream.x, stream.branch}) {
        if (half.dtype() == DType::f64) {
          half.data<double>()[i] = 0.5 * whole->data<double>()[i];
        } else {
          half.data<float>()[i] = 0.5f * whole->data<float>()[i];
        }
      }
    }
  }
  ResidualStream stream;
};

TEST_P(Output, LossAndGradientsMatchPyTorchAndDifferences) {
  LayerHarness harness(GetParam(), "output");
  const OutputLayer layer(harness.store, settings);
  harness.allocate();
  const OwnedTensor x = harness.input("x");
  const OwnedTensor expected_targets = targets();
  const Tensor losses = harness.fresh({LayerHarness::rows});
  const Tensor d_stream = harness.fresh();
  layer.loss_and_gradients(Halves(harness, x).stream, *expected_targets, 0.25, losses, d_stream,
                           harness.context);
  harness.expect_equal("token_losses", losses);
  harness.expect_equal("d_x", d_stream);
  harness.expect_parameter_gradients();
  const auto loss = [&] {
    Arena::Scope scope(harness.context.arena);
    layer.loss(Halves(harness, x).stream, *expected_targets, losses, harness.context);
    double total = 0;
    for (const double value : values_of(losses)) total += value;
    return 0.25 * total;
  };
  harness.expect_differences(loss);
  if (GetParam() == DType::f64) {
    EXPECT_TRUE(gradient_matches("x", *x, d_stream, loss));
  }
}

TEST_P(Output, LossWithoutGradientsIsTheSame) {
  LayerHarness harness(GetParam(), "output");
  const OutputLayer layer(harness.store, settings);
  harness.allocate();
  const Tensor losses = harness.fresh({LayerHarness::rows});
  layer.loss(Halves(harness, harness.input("x")).stream, *targets(), losses, harness.context);
  harness.expect_equal("token_losses", losses);
  for (const Parameter& parameter : harness.store.parameters()) {
    for (const double value : values_of(parameter.gradient)) ASSERT_EQ(value, 0.0);
  }
}

TEST_P(Output, LogitsMatchPyTorch) {
  LayerHarness harness(GetParam(), "output");
  const OutputLayer layer(harness.store, settings);
  harness.allocate();
  const Tensor logits = harness.fresh({LayerHarness::rows, LayerHarness::vocab});
  layer.logits(Halves(harness, harness.input("x")).stream, logits, harness.context);
  harness.expect_equal("logits", logits);
}

TEST_P(Output, SharesTheEmbeddingWhenTied) {
  LayerHarness harness(GetParam(), "output");
  const EmbeddingLayer embedding(
      harness.store, {.vocab = LayerHarness::vocab, .hidden = LayerHarness::hidden}, {});
  OutputLayer::Settings tied = settings;
  tied.tied = &embedding.table();
  const OutputLayer layer(harness.store, tied);
  EXPECT_EQ(harness.store.parameters().size(), 2u);  // the table and the final norm
  harness.allocate();
  fill_hashed("output.weight",
              parameter_distribution("output.weight", embedding.table().value.shape()),
              embedding.table().value);
  const Tensor losses = harness.fresh({LayerHarness::rows});
  const Tensor d_stream = harness.fresh();
  layer.loss_and_gradients(Halves(harness, harness.input("x")).stream, *targets(), 0.25, losses,
                           d_stream, harness.context);
  harness.expect_equal("token_losses", losses);
  harness.expect_equal("d_output.weight", embedding.table().gradient);
}

}  // namespace
}  // namespace polymoe::test

// SPDX-License-Identifier: Apache-2.0
#include "layers/dense_feed_forward.h"

#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using FeedForwardLayer = EveryDType;
POLYMOE_EVERY_DTYPE(FeedForwardLayer);

constexpr BatchLayout layout{
    .sequences = LayerHarness::sequences, .length = LayerHarness::length, .global = {}};

TEST_P(FeedForwardLayer, MatchesPyTorchAndDifferences) {
  for (const ActivationKind kind : {ActivationKind::swiglu, ActivationKind::polynorm}) {
    LayerHarness harness(GetParam(), name_of(kind));
    DenseFeedForward layer(harness.store, "layer",
                           {.hidden = LayerHarness::hidden, .width = LayerHarness::width},
                           {.kind = kind}, {});
    harness.allocate();
    const OwnedTensor x = harness.input("x");
    const OwnedTensor d_y = harness.input("d_y");
    const Tensor y = harness.fresh(), d_x = harness.fresh();
    const auto saved = layer.make_saved();
    layer.forward(*x, layout, *saved, y, harness.context);
    harness.expect_equal("y", y);
    layer.backward(*d_y, layout, *saved, d_x, harness.context);
    harness.expect_equal("d_x", d_x);
    harness.expect_parameter_gradients();
    const auto loss = [&] {
      Arena::Scope scope(harness.context.arena);
      layer.forward(*x, layout, *saved, y, harness.context);
      return inner_product(*d_y, y);
    };
    harness.expect_differences(loss);
    if (GetParam() == DType::f64) {
      EXPECT_TRUE(gradient_matches("x", *x, d_x, loss));
    }
  }
}

TEST_P(FeedForwardLayer, CoefficientsStartAsInThePaperAndDoNotDecay) {
  LayerHarness harness(GetParam(), "polynorm");
  const DenseFeedForward layer(harness.store, "layer",
                               {.hidden = LayerHarness::hidden, .width = LayerHarness::width},
                               {.kind = ActivationKind::polynorm, .order = 4}, {});
  harness.store.allocate(GetParam(), Device::cpu());
  harness.store.initialize(1, harness.context.stream);
  ASSERT_EQ(harness.store.parameters().size(), 3u);
  const Parameter& coefficients = harness.store.parameters()[2];
  EXPECT_EQ(coefficients.logical.front().name, "layer.coefficients");
  EXPECT_FALSE(coefficients.decay);
  EXPECT_EQ(values_of(coefficients.value), (std::vector<double>{0, 0.25, 0.25, 0.25, 0.25}));
  EXPECT_TRUE(harness.store.parameters()[0].decay);
}

}  // namespace
}  // namespace polymoe::test

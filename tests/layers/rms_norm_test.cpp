// SPDX-License-Identifier: Apache-2.0
#include "layers/rms_norm.h"

#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using NormLayer = EveryDType;
POLYMOE_EVERY_DTYPE(NormLayer);

TEST_P(NormLayer, MatchesPyTorchAndDifferences) {
  LayerHarness harness(GetParam(), "norm");
  const RmsNorm layer(harness.store, "layer", harness.hidden, 1e-5);
  harness.allocate();
  const OwnedTensor x = harness.input("x");
  const OwnedTensor d_y = harness.input("d_y");
  const Tensor y = harness.fresh();
  const Tensor inv_rms = harness.fresh({harness.rows});
  const Tensor d_x = harness.fresh();

  layer.forward(*x, y, inv_rms, harness.context);
  harness.expect_equal("y", y);
  layer.backward(*d_y, *x, inv_rms, Write::overwrite, d_x, harness.context);
  harness.expect_equal("d_x", d_x);
  harness.expect_parameter_gradients();
  harness.expect_differences([&] {
    layer.forward(*x, y, inv_rms, harness.context);
    return inner_product(*d_y, y);
  });
}

// The blocks form a norm's output anew instead of keeping it: that must be the same bits.
TEST_P(NormLayer, OfAFreshSumEqualsThatOfTheKeptSum) {
  LayerHarness harness(GetParam(), "norm");
  const RmsNorm layer(harness.store, "layer", harness.hidden, 1e-5);
  harness.allocate();
  const OwnedTensor x = harness.input("x");
  const OwnedTensor delta = harness.input("d_y");
  const Tensor sum = harness.fresh(), y = harness.fresh(), again = harness.fresh();
  const Tensor inv_rms = harness.fresh({harness.rows});
  const Tensor inv_rms_again = harness.fresh({harness.rows});
  layer.forward_sum(*x, *delta, sum, y, inv_rms, harness.context);
  layer.forward(sum, again, inv_rms_again, harness.context);
  EXPECT_TRUE(bitwise_equal(y, again));
  EXPECT_TRUE(bitwise_equal(inv_rms, inv_rms_again));
}

TEST_P(NormLayer, ScaleStartsAtOne) {
  LayerHarness harness(GetParam(), "norm");
  const RmsNorm layer(harness.store, "layer", harness.hidden, 1e-5);
  harness.store.allocate(GetParam(), Device::cpu());
  harness.store.initialize(1, harness.context.stream);
  EXPECT_EQ(values_of(harness.store.parameters()[0].value), std::vector<double>(8, 1.0));
  EXPECT_TRUE(harness.store.parameters()[0].decay);
}

}  // namespace
}  // namespace polymoe::test

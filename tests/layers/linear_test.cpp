// SPDX-License-Identifier: Apache-2.0
#include "layers/linear.h"

#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using LinearLayer = EveryDType;
POLYMOE_EVERY_DTYPE(LinearLayer);

TEST_P(LinearLayer, MatchesPyTorchAndDifferences) {
  LayerHarness harness(GetParam(), "linear");
  const Linear layer(harness.store, "layer", {.outputs = harness.vocab, .inputs = harness.hidden},
                     {});
  harness.allocate();
  const OwnedTensor x = harness.input("x");
  const OwnedTensor d_y = harness.input("d_y", {harness.rows, harness.vocab});
  const Tensor y = harness.fresh(d_y->shape());
  const Tensor d_x = harness.fresh();

  layer.forward(*x, y, harness.context);
  harness.expect_equal("y", y);
  layer.backward(*d_y, *x, Write::overwrite, d_x, harness.context);
  harness.expect_equal("d_x", d_x);
  harness.expect_parameter_gradients();
  harness.expect_differences([&] {
    layer.forward(*x, y, harness.context);
    return inner_product(*d_y, y);
  });
}

TEST_P(LinearLayer, GradientsAddUp) {
  LayerHarness harness(GetParam(), "linear");
  const Linear layer(harness.store, "layer", {.outputs = harness.vocab, .inputs = harness.hidden},
                     {});
  harness.allocate();
  const OwnedTensor x = harness.input("x");
  const OwnedTensor d_y = harness.input("d_y", {harness.rows, harness.vocab});
  const Tensor d_x = harness.fresh();
  layer.backward(*d_y, *x, Write::overwrite, d_x, harness.context);
  layer.backward(*d_y, *x, Write::accumulate, d_x, harness.context);
  std::vector<double> twice = harness.fixture.values("linear.d_layer.weight");
  for (double& value : twice) value *= 2;
  EXPECT_TRUE(all_close(values_of(harness.store.parameters()[0].gradient), twice,
                        tolerance_of(GetParam())));
  twice = harness.fixture.values("linear.d_x");
  for (double& value : twice) value *= 2;
  EXPECT_TRUE(all_close(values_of(d_x), twice, tolerance_of(GetParam())));
}

}  // namespace
}  // namespace polymoe::test

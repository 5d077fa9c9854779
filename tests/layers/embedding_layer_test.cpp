// SPDX-License-Identifier: Apache-2.0
#include "layers/embedding_layer.h"

#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using Embedding = EveryDType;
POLYMOE_EVERY_DTYPE(Embedding);

TEST_P(Embedding, MatchesPyTorch) {
  LayerHarness harness(GetParam(), "embedding");
  const EmbeddingLayer layer(harness.store, {.vocab = harness.vocab, .hidden = harness.hidden}, {});
  harness.allocate();
  const OwnedTensor tokens = hashed_integers("embedding.tokens", harness.rows, harness.vocab);
  const OwnedTensor d_y = harness.input("d_y");
  const Tensor y = harness.fresh();
  layer.forward(*tokens, y, harness.context);
  harness.expect_equal("y", y);
  layer.backward(*tokens, *d_y, harness.context);
  harness.expect_parameter_gradients();
  EXPECT_EQ(&layer.table(), &harness.store.parameters()[0]);
}

}  // namespace
}  // namespace polymoe::test

// SPDX-License-Identifier: Apache-2.0
#include "layers/attention_layer.h"

#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using Attention = EveryDType;
POLYMOE_EVERY_DTYPE(Attention);

constexpr BatchLayout layout{
    .sequences = LayerHarness::sequences, .length = LayerHarness::length, .global = {}};

AttentionSettings settings(bool grouped_and_normed) {
  return {.hidden = LayerHarness::hidden,
          .heads = 2,
          .kv_heads = grouped_and_normed ? 1 : 2,
          .qk_norm = grouped_and_normed,
          .norm_epsilon = 1e-5,
          .rope_theta = 1e4,
          .initializer = {}};
}

void check_against_pytorch_and_differences(DType dtype, const char* prefix, bool grouped) {
  LayerHarness harness(dtype, prefix);
  const AttentionLayer layer(harness.store, "layer", settings(grouped));
  harness.allocate();
  const OwnedTensor x = harness.input("x");
  const OwnedTensor d_y = harness.input("d_y");
  const Tensor y = harness.fresh(), d_x = harness.fresh();
  AttentionLayer::Saved saved;
  layer.forward(*x, layout, saved, y, harness.context);
  harness.expect_equal("y", y);
  layer.backward(*d_y, *x, layout, saved, d_x, harness.context);
  harness.expect_equal("d_x", d_x);
  harness.expect_parameter_gradients();
  const auto loss = [&] {
    Arena::Scope scope(harness.context.arena);
    AttentionLayer::Saved unused;
    layer.forward(*x, layout, unused, y, harness.context);
    return inner_product(*d_y, y);
  };
  harness.expect_differences(loss);
  if (dtype == DType::f64) {
    EXPECT_TRUE(gradient_matches("x", *x, d_x, loss));
  }
}

TEST_P(Attention, MatchesPyTorchAndDifferences) {
  check_against_pytorch_and_differences(GetParam(), "attention", false);
}

TEST_P(Attention, GroupedQueriesWithNormsMatchPyTorchAndDifferences) {
  check_against_pytorch_and_differences(GetParam(), "attention_grouped", true);
}

TEST_P(Attention, DecodingStepByStepEqualsTheWholeSequence) {
  for (const bool grouped : {false, true}) {
    LayerHarness harness(GetParam(), grouped ? "attention_grouped" : "attention");
    const AttentionLayer layer(harness.store, "layer", settings(grouped));
    harness.allocate();
    const OwnedTensor x = harness.input("x");
    const std::int64_t length = LayerHarness::length;
    const OwnedTensor expected = [&] {
      const OwnedTensor all =
          harness.fixture.tensor(grouped ? "attention_grouped.y" : "attention.y", GetParam());
      OwnedTensor first({length, LayerHarness::hidden}, GetParam(), Device::cpu());
      std::memcpy(first->raw(), all->raw(), first->bytes());
      return first;
    }();

    const std::int64_t kv_heads = grouped ? 1 : 2;
    KeyValueRows cache{.keys = harness.fresh({length, kv_heads, 4}),
                       .values = harness.fresh({length, kv_heads, 4}),
                       .length = 0};
    const Tensor y = harness.fresh({length, LayerHarness::hidden});
    for (const std::int64_t rows : {3, 1, 1}) {
      const std::int64_t end = cache.length + rows;
      cache.rows = rows;
      layer.decode(x->rows(cache.length, end), {&cache, 1}, y.rows(cache.length, end),
                   harness.context);
      cache.length = end;
    }
    EXPECT_LT(relative_error(y, *expected), harness.tolerance());
  }
}

TEST_P(Attention, NoSequencesAreNormal) {
  LayerHarness harness(GetParam(), "attention_grouped");
  const AttentionLayer layer(harness.store, "layer", settings(true));
  harness.allocate();
  const BatchLayout empty{.sequences = 0, .length = LayerHarness::length, .global = {}};
  const Tensor x = harness.fresh({0, LayerHarness::hidden});
  const Tensor y = harness.fresh({0, LayerHarness::hidden});
  AttentionLayer::Saved saved;
  layer.forward(x, empty, saved, y, harness.context);
  layer.backward(y, x, empty, saved, harness.fresh({0, LayerHarness::hidden}), harness.context);
  for (const Parameter& parameter : harness.store.parameters()) {
    for (const double value : values_of(parameter.gradient)) ASSERT_EQ(value, 0.0);
  }
}

}  // namespace
}  // namespace polymoe::test

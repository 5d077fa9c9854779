// SPDX-License-Identifier: Apache-2.0
#include "layers/transformer_block.h"

#include "kernels/reduction/reduction.h"
#include "layers/dense_feed_forward.h"
#include "tests/layers/layer_harness.h"

namespace polymoe::test {
namespace {

using Block = EveryDType;
POLYMOE_EVERY_DTYPE(Block);

constexpr BatchLayout layout{
    .sequences = LayerHarness::sequences, .length = LayerHarness::length, .global = {}};

struct BlockHarness : LayerHarness {
  explicit BlockHarness(DType dtype)
      : LayerHarness(dtype, "block"),
        feed_forward(store, "layer.feed_forward", {.hidden = hidden, .width = width},
                     {.kind = ActivationKind::polynorm}, {}),
        block(store, "layer",
              {.hidden = hidden,
               .heads = 2,
               .kv_heads = 1,
               .qk_norm = true,
               .norm_epsilon = 1e-5,
               .rope_theta = 1e4,
               .initializer = {}},
              feed_forward) {
    allocate();
  }

  DenseFeedForward feed_forward;
  TransformerBlock block;
};

TEST_P(Block, MatchesPyTorchAndDifferences) {
  BlockHarness harness(GetParam());
  const OwnedTensor x = harness.input("x");
  const OwnedTensor d_y = harness.input("d_y");
  const TransformerBlock::Workspace workspace{harness.fresh(), harness.fresh()};
  TransformerBlock::Saved saved = harness.block.make_saved();
  saved.x = *x;
  saved.middle = harness.fresh();
  const Tensor y = harness.fresh();

  const auto forward = [&] {
    const ResidualStream out =
        harness.block.forward({saved.x, Tensor()}, layout, workspace, saved, harness.context);
    std::memcpy(y.raw(), out.x.raw(), y.bytes());
    add(out.branch, y, harness.context.stream);
  };
  forward();
  harness.expect_equal("y", y);

  const Tensor d_stream = harness.fresh();
  std::memcpy(d_stream.raw(), d_y->raw(), d_y->bytes());
  harness.block.backward(d_stream, layout, workspace, saved, harness.context);
  harness.expect_equal("d_x", d_stream);
  harness.expect_parameter_gradients();
  const auto loss = [&] {
    Arena::Scope scope(harness.context.arena);
    forward();
    return inner_product(*d_y, y);
  };
  harness.expect_differences(loss);
  if (GetParam() == DType::f64) {
    EXPECT_TRUE(gradient_matches("x", *x, d_stream, loss));
  }
}

TEST_P(Block, SumsTheStreamThatItIsGiven) {
  BlockHarness harness(GetParam());
  const OwnedTensor whole = harness.input("x");
  const OwnedTensor branch = harness.input("d_y");
  const Tensor rest = harness.fresh();
  for (std::int64_t i = 0; i < rest.elements(); ++i) {
    if (GetParam() == DType::f64) {
      rest.data<double>()[i] = whole->data<double>()[i] - branch->data<double>()[i];
    } else {
      rest.data<float>()[i] = whole->data<float>()[i] - branch->data<float>()[i];
    }
  }
  const TransformerBlock::Workspace workspace{harness.fresh(), harness.fresh()};
  std::memcpy(workspace.branch.raw(), branch->raw(), branch->bytes());
  TransformerBlock::Saved saved = harness.block.make_saved();
  saved.x = harness.fresh();
  saved.middle = rest;  // as when all blocks share it: read first, then overwritten
  const ResidualStream out =
      harness.block.forward({rest, workspace.branch}, layout, workspace, saved, harness.context);
  const Tensor y = harness.fresh();
  std::memcpy(y.raw(), out.x.raw(), y.bytes());
  add(out.branch, y, harness.context.stream);
  harness.expect_equal("y", y);
}

}  // namespace
}  // namespace polymoe::test

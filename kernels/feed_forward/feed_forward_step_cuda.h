// SPDX-License-Identifier: Apache-2.0
// The two kernels of a token's feed-forward.
#pragma once

#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// The first of those of experts that are chosen: the choice, and
/// pre[j] = up_e row, e = ids[j].
struct ChosenUp {
  const RowInput& input;
  const ExpertChoice& choice;
  Tensor up;       // [experts, outputs, k]
  Tensor ids;      // [top_k] i32, written
  Tensor weights;  // [top_k] f32, written
  Tensor pre;      // [top_k, outputs]
};
/// Whether multiply_by_chosen() can form the norm itself; else input.x has to be the normed row,
/// without a scale.
bool norms_in_product(const ChosenUp& call);
void multiply_by_chosen(const ChosenUp& call, Stream& stream);

/// The second: y = residual + sum over j of down_e (row_weights[j] activation(pre[j])), e = ids[j],
/// or the only one without ids; rounded once.
struct ActivatedDown {
  const Activation& activation;
  Tensor coefficients;  // [1 or experts, coefficient_count]
  Tensor pre;           // [slots, factor * ffn]
  Tensor down;          // [experts, hidden, ffn]
  Tensor ids;           // [slots] i32, or undefined: one slot, of the only expert
  Tensor row_weights;   // [slots] f32; undefined = 1
  Tensor residual, y;   // [1, hidden]
};
/// Whether add_activated_products() can be called: the activated rows find room in shared memory.
bool activates_in_product(const ActivatedDown& call);
void add_activated_products(const ActivatedDown& call, Stream& stream);
/// The same of rows [slots, ffn] that are activated and weighted already, of any sizes.
void add_products(const ActivatedDown& call, const Tensor& activated, Stream& stream);

}  // namespace polymoe::cuda

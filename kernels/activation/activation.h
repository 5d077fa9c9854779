// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// The activations of a feed-forward. r is the order, a_i are learned coefficients.
enum class ActivationKind : std::uint8_t {
  relu,          // max(x, 0)
  leaky_relu,    // x > 0 ? x : 0.01 x
  prelu,         // x > 0 ? x : a_0 x
  relu2,         // max(x, 0)^2
  gelu,          // x Phi(x), exact (erf)
  silu,          // x sigmoid(x)
  swiglu,        // silu(gate) * up; the pre-activation row is [gate, up]
  polyrelu,      // sum_{i=0..r} a_i relu(x)^i
  polyprelu,     // sum_{i=0..r} a_i prelu(x)^i, with a learned slope
  polynorm,      // a_0 + sum_{p=1..r} a_p n(x^p)
  polyrelunorm,  // a_0 + sum_{p=1..r} a_p n(relu(x)^p)
  polynomial,    // sum_{i=0..r} a_i x^i
};
// n(u) = u rsqrt(mean(u^2) + epsilon) over the row.
// Source of the poly* family: Zhuo et al., ICLR 2025, arXiv:2411.03884.

struct Activation {
  ActivationKind kind = ActivationKind::polynorm;
  int order = 3;          // of the poly* family; in [2, 4]
  double epsilon = 1e-6;  // of n(u)
};

/// "polynorm", ...; the configuration's spelling.
const char* name_of(ActivationKind kind);
/// All of them, in the order of the enumeration.
const std::vector<ActivationKind>& all_activations();
/// Inverse of name_of. Throws InvalidArgument that lists the allowed names.
ActivationKind parse_activation(std::string_view name);

/// Whether a pre-activation row is [gate, up], of two projections.
bool is_gated(ActivationKind kind);
/// Whether it norms over a row (PolyNorm), and so does not act on one element.
bool norms_rows(ActivationKind kind);
/// Whether `order` means something to it.
bool has_order(ActivationKind kind);
/// Pre-activation columns per output column: 2 where gated, else 1.
int pre_activation_factor(ActivationKind kind);
/// Number of learned coefficients: 0, 1 (prelu: the slope a_0), order + 1 (a_0 first), or order + 2
/// (polyprelu: a_0 .. a_r, then the slope).
int coefficient_count(const Activation& activation);
/// Where they start: a_p = 1/order for p >= 1, a_0 = 0, slopes 0.25.
std::vector<double> initial_coefficients(const Activation& activation);

/// y[r] = row_weights[r] * activation(x[r]) on rows grouped by expert; group g owns rows
/// [group_offsets[g], group_offsets[g + 1]) and uses coefficients[g], or coefficients[0] where
/// there is one set for all. The feed-forward's own kernels.
///
/// x             [rows, factor * width]
/// coefficients  [1 or groups, coefficient_count], undefined where there are none
/// group_offsets groups + 1 ascending values on the host, the last equal to rows
/// row_weights   [rows], undefined = 1
/// y             [rows, width]
///
/// y may alias x, except where gated. f32 or f64 on the CPU, f32 or bf16 on CUDA, where
/// coefficients and row_weights are f32; row statistics in f32 at least. Asynchronous on `stream`.
/// Throws InvalidArgument on a mismatch.
void activation_forward(const Activation& activation, const Tensor& x, const Tensor& coefficients,
                        const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                        Tensor y, Stream& stream);

/// What activation_backward writes, at no further pass over memory.
struct ActivationGradients {
  Tensor d_x;             // as x; may alias x, and d_y except where gated
  Tensor d_coefficients;  // as coefficients; added to, in a fixed order
  Tensor y;  // [rows, width] forward's output again; may alias d_y; undefined = unwanted
  Tensor d_row_weights;  // [rows] <d_y[r], activation(x[r])>; undefined = unwanted
};

/// Gradients of activation_forward, from d_y [rows, width].
void activation_backward(const Activation& activation, const Tensor& d_y, const Tensor& x,
                         const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                         const Tensor& row_weights, const ActivationGradients& gradients,
                         Arena& scratch, Stream& stream);

}  // namespace polymoe

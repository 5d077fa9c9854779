// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/rotary/rotary.h"
#include "layers/batch.h"
#include "layers/linear.h"
#include "layers/rms_norm.h"
#include "layers/shared_rows.h"
#include "runtime/context.h"

namespace polymoe {

struct AttentionSettings {
  std::int64_t hidden = 0;
  std::int64_t heads = 0;     // divides hidden
  std::int64_t kv_heads = 0;  // divides heads
  bool qk_norm = false;       // RMSNorm of the whole q and k vectors before the rotation
  double norm_epsilon = 1e-5;
  double rope_theta = 1e4;
  Initializer initializer;
};

/// Keys and values of one layer for the positions of a sequence seen so far.
struct KeyValueRows {
  Tensor keys, values;      // [capacity, kv_heads, head_dim]
  std::int64_t length = 0;  // positions filled
  std::int64_t rows = 1;    // that follow in this pass
  // For single rows: `length` once more, where the device reads it, and [heads] zeros.
  Tensor position = {}, tickets = {};  // [1], [heads] i32
};

/// Causal self-attention: y = o(attention(rotary(norm(q(x))), rotary(norm(k(x))), v(x))).
/// Declares "NAME.{q,k,v,o}.weight" and, with qk_norm, "NAME.{q_norm,k_norm}.weight".
class AttentionLayer {
 public:
  /// What backward needs from forward beside x.
  struct Saved {
    Tensor q, k, v;  // [rows, width]: of q and k before the norm, or rotated without one
    Tensor q_inv_rms, k_inv_rms;  // [rows], with qk_norm
    Tensor out;                   // [rows, hidden]: before the output projection
    Tensor log_sum_exp;           // [sequences, heads, length]
  };

  AttentionLayer(ParameterStore& store, const std::string& name, const AttentionSettings& settings);

  /// x, y [rows, hidden]; overwrites y. Allocates `saved` in the arena.
  void forward(const Tensor& x, const BatchLayout& layout, Saved& saved, Tensor y,
               ExecutionContext& context) const;

  /// Overwrites d_x, which may alias neither d_y nor x; adds to the parameters' gradients.
  void backward(const Tensor& d_y, const Tensor& x, const BatchLayout& layout, const Saved& saved,
                Tensor d_x, ExecutionContext& context) const;

  /// Forward, without a backward pass, of rows that sequences share.
  ///
  /// x, y [shared.rows(), hidden]; overwrites y
  void forward_shared(const Tensor& x, const SharedRows& shared, Tensor y,
                      ExecutionContext& context) const;

  /// Attention of rows of several sequences, those of one behind those of the other, which follow
  /// on the earlier ones in the sequences' caches; their keys and values are written behind those.
  /// The caches' lengths stay: the caller moves them on. A single row whose cache has a position is
  /// the work of attention_step, as in step(). No sequences are normal.
  ///
  /// x, y [rows of all sequences, hidden]; rows + length <= capacity of each
  void decode(const Tensor& x, std::span<const KeyValueRows> sequences, Tensor y,
              ExecutionContext& context) const;

  /// The same for one row, with what surrounds it in a block: y = x + attention(norm(x)). Submits
  /// the same work whatever the length: what a device has to know of it is cache.position.
  ///
  /// x, y [1, hidden]
  void step(const Tensor& x, const RmsNorm& norm, const KeyValueRows& cache, Tensor y,
            ExecutionContext& context) const;

 private:
  std::int64_t head_dim() const { return settings_.hidden / settings_.heads; }
  /// Of the rows of one sequence, from their projections on: q and k are rotated in place, k and v
  /// lie in the cache afterwards. q, out [rows, hidden]; k, v [rows, kv_width()]
  void attend_cached(const KeyValueRows& cache, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, ExecutionContext& context) const;
  /// The same of one row whose cache has a position.
  void attend_row(const KeyValueRows& cache, const Tensor& q, const Tensor& k, const Tensor& v,
                  const Tensor& out, ExecutionContext& context) const;
  void rotate(const RotaryPositions& positions, const Tensor& q, const Tensor& k,
              ExecutionContext& context) const;
  std::int64_t kv_width() const { return settings_.kv_heads * head_dim(); }
  AttentionShape shape_of(const BatchLayout& layout) const;
  RotaryPositions positions_of(const BatchLayout& layout) const;
  Tensor by_head(const Tensor& x) const;  // [rows, heads or kv_heads, head_dim]

  AttentionSettings settings_;
  Linear q_, k_, v_, o_;
  std::optional<RmsNorm> q_norm_, k_norm_;
};

}  // namespace polymoe

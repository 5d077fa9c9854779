// SPDX-License-Identifier: Apache-2.0
// The row that the second product of a token's feed-forward reads, formed in shared memory from the
// results of the first: the activated rows of its slots, one behind the other.
#pragma once

#include <cstdint>

#include "kernels/activation/activation_cuda_rows.cuh"
#include "kernels/activation/activation_formulas-inl.h"
#include "kernels/activation/poly_norm_cuda_row.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/matmul/row_products_cuda_stream.cuh"

namespace polymoe::cuda {

/// Pre-activations of a token's slots. Sources as in row_products_cuda_sources.cuh, with nothing to
/// prepare.
template <class Rows>
struct SlotRows {
  Rows rows;                   // of slot 0
  const std::int32_t* chosen;  // [slots] whose coefficients; null = all share them
  int slots, vectors;          // vectors of a slot's activated row

  __host__ __device__ int shared_vectors() const { return slots * vectors; }
  __device__ const float* coefficients_of(int slot) const {
    return chosen == nullptr ? rows.coefficients
                             : rows.coefficients + chosen[slot] * rows.set_stride;
  }
};

/// Of an activation that acts on one element.
template <class T, class Formula>
struct ActivatedRow : SlotRows<ActivationRows<T>> {
  __device__ void fetch(uint4*) const {}  // gated rows find no room there: form() reads them
  template <int later>
  __device__ void form(uint4* row) const {
    using V = Vector<T>;
    constexpr int at_once = 2, factor = Formula::gated ? 2 : 1;
    const int count = this->slots * this->vectors;
    for (int begin = static_cast<int>(threadIdx.x); begin < count;
         begin += at_once * RowStream::threads) {
      uint4 inputs[at_once], gated[at_once];
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const int i = begin + k * RowStream::threads;
        if (i >= count) break;
        const int slot = i / this->vectors;
        const uint4* x =
            reinterpret_cast<const uint4*>(this->rows.x) + (factor - 1) * slot * this->vectors + i;
        inputs[k] = *x;
        if constexpr (Formula::gated) gated[k] = x[this->vectors];
      }
#pragma unroll
      for (int k = 0; k < at_once; ++k) {
        const int i = begin + k * RowStream::threads;
        if (i >= count) break;
        const int slot = i / this->vectors;
        const Formula formula(this->coefficients_of(slot));
        const float weight = this->rows.weight_of(slot);
        float values[V::size], ups[V::size];
        V::unpack(inputs[k], values);
        if constexpr (Formula::gated) V::unpack(gated[k], ups);
#pragma unroll
        for (int j = 0; j < V::size; ++j) {
          values[j] = formula.value(values[j]);
          if constexpr (Formula::gated) values[j] *= ups[j];
          values[j] *= weight;
        }
        row[i] = V::pack(values);
      }
    }
    __syncthreads();
  }
};

/// Of polynorm and polyrelunorm: a slot is a warp's, or the block's where it is the only one.
template <class T, int order>
struct PolyNormedRow : SlotRows<PolyNormRows<T>> {
  __device__ void fetch(uint4* row) const {
    const uint4* const x = reinterpret_cast<const uint4*>(this->rows.x);
    for_own_slots([&](int slot, int first, int step) {
      for (int i = slot * this->vectors + first; i < (slot + 1) * this->vectors; i += step)
        copy_async(row + i, x + i);
    });
    commit_copies();
  }
  /// A thread reads what it has copied itself.
  template <int later>
  __device__ void form(uint4* row) const {
    using V = Vector<T>;
    __shared__ typename BlockSum<order>::Storage storage;
    wait_for_copies<later>();
    const DeviceMath::Count width(this->rows.width);
    for_own_slots([&](int slot, int first, int step) {
      // Asked for before the sums, as they come from far.
      float coefficients[order + 1];
#pragma unroll
      for (int i = 0; i <= order; ++i) coefficients[i] = this->coefficients_of(slot)[i];
      const float weight = this->rows.weight_of(slot);
      uint4* const y = row + slot * this->vectors;
      float sums[order] = {};
      for (int i = first; i < this->vectors; i += step) {
        float values[V::size];
        V::unpack(y[i], values);
#pragma unroll
        for (const float value : values)
          add_even_powers<DeviceMath, order>(this->rows.inner(value), sums);
      }
      if (this->slots == 1)
        BlockSum<order>{storage}(sums);
      else
        sum_over_warp(sums);
      const Value<order> value(coefficients, sums, width, this->rows.epsilon, weight);
      for (int i = first; i < this->vectors; i += step) {
        float values[V::size];
        V::unpack(y[i], values);
#pragma unroll
        for (float& v : values) v = value.value_at(this->rows.inner(v));
        y[i] = V::pack(values);
      }
    });
    __syncthreads();
  }

 private:
  /// operation(slot, first, step): the calling thread takes every `step`-th vector of the slot.
  template <class Operation>
  __device__ void for_own_slots(const Operation& operation) const {
    const int thread = static_cast<int>(threadIdx.x);
    const int step = this->slots == 1 ? RowStream::threads : warp_size;
    for (int slot = thread / step; slot < this->slots; slot += RowStream::threads / step)
      operation(slot, thread % step, step);
  }
};

}  // namespace polymoe::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

#include "kernels/cuda/libraries/product_timing.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// c (+)= op(a) op(b) of dense row-major matrices: op(a) [m, k], op(b) [k, n], c [m, n].
/// input is f32 or bf16; output f32, or bf16 with bf16 inputs. Sums are f32, never TF32.
struct Product {
  const void* a;
  bool transpose_a;
  const void* b;
  bool transpose_b;
  void* c;
  bool accumulate;
  std::int64_t m, n, k;
  DType input, output;
};

/// cuBLASLt for one stream: its handle, workspaces, the choice of algorithm for each shape, and the
/// side streams on which products of a group overlap. Made at a stream's first product and kept
/// with the stream; a stream belongs to one thread, so nothing here is locked.
///
/// The algorithm for a shape is chosen once, by timing the heuristic's candidates on the first
/// product of that shape. Only candidates that give the same bits as the heuristic's first may win:
/// what is computed never depends on what was measured. Products in f32, and small ones, take the
/// heuristic's first; so does a product that may not be timed (see ProductTiming: unevenly routed
/// rows bring many sizes at once, and work may be over before timing has paid), and its shape is
/// chosen for when one may be.
class Blas final : public StreamResources {
 public:
  static constexpr int lanes = 4;

  static Blas& of(Stream& stream);
  explicit Blas(Stream& stream);
  ~Blas() override;
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  ProductTiming& timing() { return timing_; }

  /// Extents of zero are allowed. Asynchronous, but for the first product of a shape.
  void multiply(const Product& product);
  /// Products that write to different places, side by side on a few streams. Their algorithms are
  /// chosen per range of sizes instead of per size: row counts change from step to step.
  /// (cublasGemmGroupedBatchedEx reaches half of this rate: docs/performance-journal.md.)
  void multiply(std::span<const Product> products);

 private:
  struct Lane {
    cudaStream_t stream = nullptr;
    cudaEvent_t done = nullptr;
    void* workspace = nullptr;
  };
  struct Description;  // cuBLASLt's descriptors of one product
  using Use = ProductTiming::Use;
  using Key = std::array<std::int64_t, 8>;
  struct Choice {
    cublasLtMatmulAlgo_t first, fastest;  // the heuristic's; of those with the same bits
    bool settled;                         // else to be made again, by timing
    bool exists = true;                   // else the heuristic has none
  };

  void release() noexcept;
  void run(const Product& product, const Product& representative, Use use, Lane& lane);
  Choice choose(const Description& description, const Product& product,
                const Description& representative, bool timed, Use use);
  /// The side streams wait for the stream; the stream waits for them.
  void fork(int used);
  void join(int used);

  int device_ = 0;
  cublasLtHandle_t lt_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  std::array<Lane, lanes> lanes_;
  std::map<Key, Choice> choices_;
  ProductTiming timing_;
};

}  // namespace polymoe::cuda

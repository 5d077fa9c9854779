// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/libraries/blas.h"

#include <algorithm>
#include <bit>
#include <string>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/libraries/same_bits.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what Hopper's algorithms want
constexpr int most_candidates = 8;
constexpr int timed_runs = 3;
constexpr std::int64_t fewest_compared = 1 << 16;  // results by which orders of sums are told apart

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + ": " + cublasLtGetStatusString(status));
}

using cuda::check;

cudaDataType_t type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two, up to 256, that divides the address.
std::int64_t alignment_of(const void* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory) | 256;
  return std::int64_t{1} << std::countr_zero(address);
}

// Up to the next of four steps per power of two: sizes that share an algorithm.
std::int64_t size_range(std::int64_t size) {
  if (size <= 64) return size <= 0 ? 0 : 64;
  const std::int64_t step = std::int64_t{1}
                            << (std::bit_width(static_cast<std::uint64_t>(size - 1)) - 3);
  return round_up(size, step);
}

// Device memory of one choice of algorithm.
class Temporary {
 public:
  explicit Temporary(std::size_t bytes) { check(cudaMalloc(&memory_, bytes), "cudaMalloc"); }
  ~Temporary() { cudaFree(memory_); }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

// cuBLASLt's matrices are column-major: c^T = op(b)^T op(a)^T, so its first operand is b.
struct Blas::Description {
  explicit Description(const Product& p) : beta(p.accumulate ? 1.0f : 0.0f) {
    const cublasOperation_t first = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDesc");
    check(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                         sizeof(first)),
          "cublasLtMatmulDescSetAttribute");
    check(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                         sizeof(second)),
          "cublasLtMatmulDescSetAttribute");
    const auto layout = [](cublasLtMatrixLayoutOpaque_t& matrix, DType type, std::int64_t rows,
                           std::int64_t columns) {
      check(cublasLtMatrixLayoutInit(&matrix, type_of(type), static_cast<std::uint64_t>(columns),
                                     static_cast<std::uint64_t>(rows), columns),
            "cublasLtMatrixLayout");
    };
    layout(b, p.input, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n);
    layout(a, p.input, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k);
    layout(c, p.output, p.m, p.n);
  }

  cublasStatus_t run(cublasLtHandle_t handle, const Product& p, void* result,
                     const cublasLtMatmulAlgo_t& algorithm, void* workspace,
                     cudaStream_t stream) const {
    const float one = 1.0f;
    return cublasLtMatmul(handle, &operation, &one, p.b, &b, p.a, &a, &beta, p.c, &c, result, &c,
                          &algorithm, workspace, workspace_bytes, stream);
  }

  mutable cublasLtMatmulDescOpaque_t operation;
  mutable cublasLtMatrixLayoutOpaque_t a, b, c;
  float beta;
};

Blas& Blas::of(Stream& stream) { return stream.resources<Blas>(); }

Blas::Blas(Stream& stream) : device_(stream.device().index) {
  use_device(device_);
  try {
    check(cublasLtCreate(&lt_), "cublasLtCreate");
    check(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "cudaEventCreate");
    for (Lane& lane : lanes_) {
      if (&lane == lanes_.data()) {
        lane.stream = native(stream);
      } else {
        check(cudaStreamCreateWithFlags(&lane.stream, cudaStreamNonBlocking), "cudaStreamCreate");
      }
      check(cudaEventCreateWithFlags(&lane.done, cudaEventDisableTiming), "cudaEventCreate");
      check(cudaMalloc(&lane.workspace, workspace_bytes), "cudaMalloc of a cuBLAS workspace");
    }
  } catch (...) {
    release();
    throw;
  }
}

Blas::~Blas() { release(); }

void Blas::release() noexcept {
  for (Lane& lane : lanes_) {
    if (lane.done != nullptr) cudaEventDestroy(lane.done);
    if (lane.stream != nullptr && &lane != lanes_.data()) cudaStreamDestroy(lane.stream);
    if (lane.workspace != nullptr) cudaFree(lane.workspace);
  }
  if (ready_ != nullptr) cudaEventDestroy(ready_);
  if (lt_ != nullptr) cublasLtDestroy(lt_);
}

// Rows come in many sizes where texts are scored: sizes of a range share a choice.
void Blas::multiply(const Product& product) {
  Product representative = product;
  if (!product.transpose_a) representative.m = size_range(product.m);
  run(product, representative, Use::alone, lanes_[0]);
}

// `representative` is the product for whose size the algorithm is looked up and remembered.
void Blas::run(const Product& p, const Product& representative, Use use, Lane& lane) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (p.accumulate) return;
    const auto bytes = static_cast<std::size_t>(p.m * p.n) * size_of(p.output);
    return fill_bytes(p.c, 0, bytes, lane.stream);
  }
  const Description description(p);
  const std::int64_t flags = (p.transpose_a ? 1 : 0) | (p.transpose_b ? 2 : 0) |
                             (p.accumulate ? 4 : 0) | (p.input == DType::bf16 ? 8 : 0) |
                             (p.output == DType::bf16 ? 16 : 0);
  const auto key_of = [&](const Product& sizes, Use how) {
    return Key{flags,
               sizes.m,
               sizes.n,
               sizes.k,
               alignment_of(p.a),
               alignment_of(p.b),
               alignment_of(p.c),
               static_cast<std::int64_t>(how)};
  };
  const auto run_with = [&](const cublasLtMatmulAlgo_t& algorithm) {
    const cublasStatus_t status =
        description.run(lt_, p, p.c, algorithm, lane.workspace, lane.stream);
    // One size of a range may lie outside of what another's algorithm can do.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
      return false;
    check(status, "cublasLtMatmul");
    return true;
  };
  const auto run_chosen = [&](const Product& sizes, Use how) {
    const Key key = key_of(sizes, how);
    const auto known = choices_.find(key);
    const bool timed = timing_.allows(how);
    const bool serves = known != choices_.end() && (known->second.settled || !timed);
    // One that cannot do p is remembered too: to ask the heuristic takes longer than the product.
    const Choice& choice =
        serves
            ? known->second
            : choices_.insert_or_assign(key, choose(description, p, Description(sizes), timed, how))
                  .first->second;
    if (!choice.exists) return false;
    // Which algorithm was the fastest must not decide about the bits of a size it cannot do.
    return run_with(choice.fastest) || run_with(choice.first);
  };
  // A size that its range's algorithm cannot do has one of its own, not worth timing.
  if (run_chosen(representative, use) || run_chosen(p, Use::rare)) return;
  throw DeviceError("cuBLASLt has no algorithm for a product of " + std::to_string(p.m) + " x " +
                    std::to_string(p.n) + " x " + std::to_string(p.k));
}

// Candidates are those for the `representative` sizes, so that the choice does not depend on which
// size of a range comes first. Side by side what counts is what several products take together.
// Where the first candidate cannot do p it is chosen for now, for other sizes of the range.
Blas::Choice Blas::choose(const Description& description, const Product& p,
                          const Description& representative, bool timed, Use use) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  std::array<cublasLtMatmulHeuristicResult_t, most_candidates> candidates;
  int found = 0;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  try {
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    // Partial sums over slices of k are added in order and in f32, or not made.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
           static_cast<std::uint32_t>(alignment_of(p.b)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
           static_cast<std::uint32_t>(alignment_of(p.a)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
           static_cast<std::uint32_t>(alignment_of(p.c)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
           static_cast<std::uint32_t>(alignment_of(p.c)));
    status = cublasLtMatmulAlgoGetHeuristic(lt_, &representative.operation, &representative.b,
                                            &representative.a, &representative.c, &representative.c,
                                            preference, most_candidates, candidates.data(), &found);
  } catch (...) {
    cublasLtMatmulPreferenceDestroy(preference);
    throw;
  }
  cublasLtMatmulPreferenceDestroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0) return {.first = {}, .fastest = {}, .settled = true, .exists = false};
  // f32 is for verification. Few results say little about the order of sums: algorithms with other
  // orders may give the same bits for them.
  const bool worth_timing =
      use != Use::rare && found > 1 && p.input != DType::f32 && p.m * p.n >= fewest_compared;
  const cublasLtMatmulAlgo_t first = candidates[0].algo;
  if (!timed || !worth_timing)
    return {.first = first, .fastest = first, .settled = timed || !worth_timing};

  const auto started = ProductTiming::Clock::now();
  const auto bytes = static_cast<std::size_t>(p.m * p.n) * size_of(p.output);
  const Temporary expected(bytes), result(bytes);
  for (const Lane& lane : lanes_) {
    check(cudaStreamSynchronize(lane.stream), "cudaStreamSynchronize");
  }
  const bool side_by_side = use == Use::side_by_side;
  const Event begin, end;
  std::size_t best = 0;
  float best_time = 0.0f;
  for (std::size_t i = 0; i < static_cast<std::size_t>(found); ++i) {
    void* output = i == 0 ? expected.get() : result.get();
    // Several runs at once write the same bits to one place.
    const auto run_on = [&](const Lane& lane) {
      return description.run(lt_, p, output, candidates[i].algo, lane.workspace, lane.stream);
    };
    if (run_on(lanes_[0]) != CUBLAS_STATUS_SUCCESS) {
      if (i > 0) continue;
      timing_.add(ProductTiming::Clock::now() - started);
      return {.first = first, .fastest = first, .settled = use == Use::alone};
    }
    if (i > 0) {
      const BitComparison bits =
          compare_bits(expected.get(), result.get(), bytes, lanes_[0].stream);
      // Zeros say nothing about the order of sums: take the first for now, and choose later.
      if (bits.all_zero) {
        timing_.add(ProductTiming::Clock::now() - started);
        return {.first = first, .fastest = first, .settled = false};
      }
      if (!bits.equal) continue;
    }
    float fastest = 0.0f;
    for (int repeat = 0; repeat < timed_runs; ++repeat) {
      check(cudaEventRecord(begin.get(), lanes_[0].stream), "cudaEventRecord");
      const int used = side_by_side ? lanes : 1;
      fork(used);
      for (int run = 0; run < (side_by_side ? 2 * lanes : 1); ++run) {
        check(run_on(lanes_[static_cast<std::size_t>(run % used)]), "cublasLtMatmul");
      }
      join(used);
      check(cudaEventRecord(end.get(), lanes_[0].stream), "cudaEventRecord");
      check(cudaEventSynchronize(end.get()), "cudaEventSynchronize");
      float time = 0.0f;
      check(cudaEventElapsedTime(&time, begin.get(), end.get()), "cudaEventElapsedTime");
      if (repeat == 0 || time < fastest) fastest = time;
    }
    if (best_time == 0.0f || fastest < best_time) {
      best = i;
      best_time = fastest;
    }
  }
  timing_.add(ProductTiming::Clock::now() - started);
  return {.first = first, .fastest = candidates[best].algo, .settled = true};
}

void Blas::multiply(std::span<const Product> products) {
  const int used = products.size() > 1 ? lanes : 1;
  fork(used);
  std::size_t next = 0;
  for (const Product& product : products) {
    Product representative = product;
    representative.m = size_range(product.m);
    representative.n = size_range(product.n);
    representative.k = size_range(product.k);
    run(product, representative, Use::side_by_side, lanes_[next]);
    next = (next + 1) % static_cast<std::size_t>(used);
  }
  join(used);
}

void Blas::fork(int used) {
  if (used == 1) return;
  check(cudaEventRecord(ready_, lanes_[0].stream), "cudaEventRecord");
  for (int i = 1; i < used; ++i) {
    check(cudaStreamWaitEvent(lanes_[static_cast<std::size_t>(i)].stream, ready_, 0),
          "cudaStreamWaitEvent");
  }
}

void Blas::join(int used) {
  for (int i = 1; i < used; ++i) {
    const Lane& lane = lanes_[static_cast<std::size_t>(i)];
    check(cudaEventRecord(lane.done, lane.stream), "cudaEventRecord");
    check(cudaStreamWaitEvent(lanes_[0].stream, lane.done, 0), "cudaStreamWaitEvent");
  }
}

}  // namespace polymoe::cuda

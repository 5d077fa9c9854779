// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cuda {

// Copies to shared memory that the hardware makes by itself, and the barriers that count their
// bytes (mbarrier, cp.async.bulk; PTX ISA). From compute capability 9.0 on.

__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// A barrier in shared memory: a phase ends when `arrivals` have arrived and all bytes announced
/// have come. Phases alternate in parity, beginning with 0.
using Barrier = std::uint64_t;

/// By one thread. Others may use it after seal_barriers() and a barrier of the block.
__device__ inline void make_barrier(Barrier& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals)
               : "memory");
}
__device__ inline void seal_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// One arrival, and `bytes` that are still to come in this phase.
__device__ inline void arrive_and_expect(Barrier& barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(bytes)
               : "memory");
}
/// Until the phase of this parity has ended.
__device__ inline void wait_for_phase(Barrier& barrier, std::uint32_t parity) {
  asm volatile(
      "{.reg .pred ended;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;}\n" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
}

/// `bytes`, a multiple of 16, from global memory; they count at the barrier. Both at 16 bytes.
__device__ inline void copy_bulk(void* shared, const void* global, std::uint32_t bytes,
                                 Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
}

}  // namespace polymoe::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cuda {

__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// 16 bytes from global to shared memory, without waiting; see commit_copies() and
/// wait_for_copies(). Only the copying thread may rely on the wait.
__device__ inline void copy_async(uint4* shared, const uint4* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}
/// Closes a group of the copies so far.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most `pending` of the latest groups are under way.
template <int pending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
/// A load that is made where it is written, so that its registers are free before and after.
__device__ inline uint4 load_shared(const uint4* shared) {
  uint4 bits;
  asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(shared_address(shared))
               : "memory");
  return bits;
}

// Copies to shared memory that the hardware makes by itself, and the barriers that count their
// bytes (mbarrier, cp.async.bulk; PTX ISA). From compute capability 9.0 on.

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

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

/// Products of bf16 matrices on tensor cores, a warp at a time: m16n8k16 with f32 sums, from
/// compute capability 8.0 on. A lane's part of an operand is called its fragment; which elements
/// those are is in the PTX ISA, "Matrix Fragments for mma.m16n8k16". With g = lane / 4 and
/// t = lane % 4 * 2:
///
///   a [16, 16]  a[0] = (g, t..t+1), a[1] = (g + 8, t..), a[2] = (g, t + 8..), a[3] = (g + 8, t + 8..)
///   b [16, 8]   b[0] = (t..t+1, g), b[1] = (t + 8.., g)
///   c [16, 8]   c[0..1] = (g, t..t+1), c[2..3] = (g + 8, t..t+1)
namespace polymoe::cuda {

/// c += a b.
__device__ inline void multiply_fragments(float (&c)[4], const std::uint32_t (&a)[4],
                                          std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four matrices of 8 x 8 bf16 from shared memory: lanes 8 n to 8 n + 7 name the rows, of 16
/// bytes, of matrix n. Lane l gets of each the elements t and t + 1 of row g; of the transposed
/// ones those of column g.
__device__ inline void load_fragments(std::uint32_t (&fragments)[4], const __nv_bfloat16* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(address));
}
__device__ inline void load_fragments_transposed(std::uint32_t (&fragments)[4],
                                                 const __nv_bfloat16* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(address));
}

/// Copies 16 bytes, or 4, to shared memory without waiting, or zeros where they are not `there`;
/// both addresses are aligned to the bytes.
__device__ inline void copy_16_bytes_later(void* shared, const void* global, bool there) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ inline void copy_4_bytes_later(void* shared, const void* global, bool there) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = there ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
}
/// Until the copies that this thread began are there, for this thread: a barrier makes them all
/// threads'.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Two f32 as a register of two bf16, the first one in the low half.
__device__ inline std::uint32_t two_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

/// A tile of rows of `width` bf16 in shared memory. Its chunks of 8 elements change places within
/// a row, so that the same chunk of eight neighbouring rows lies in different banks.
template <int width>
struct FragmentTile {
  static constexpr int chunks = width / 8;
  static_assert(width % 64 == 0);
  __device__ static int at(int row, int chunk) { return (row * chunks + (chunk ^ (row & 7))) * 8; }

  /// a of rows row.. and columns 16 step.. of the tile.
  __device__ static void load_a(std::uint32_t (&a)[4], const __nv_bfloat16* tile, int row,
                                int step) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    load_fragments(a, tile + at(row + lane % 16, 2 * step + lane / 16));
  }
  /// b[0], b[1] for columns n.. of b and b[2], b[3] for columns n + 8.., where the tile holds b^T:
  /// its rows are the columns of b, its columns 16 step.. the sixteen that are summed over.
  __device__ static void load_b_of_rows(std::uint32_t (&b)[4], const __nv_bfloat16* tile, int n,
                                        int step) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    load_fragments(b, tile + at(n + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
  }
  /// Likewise where the tile holds b itself: its rows k.. are summed over, n is a column of it.
  __device__ static void load_b_of_columns(std::uint32_t (&b)[4], const __nv_bfloat16* tile, int k,
                                           int n) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    load_fragments_transposed(b, tile + at(k + lane % 16, n / 8 + lane / 16));
  }
};

}  // namespace polymoe::cuda

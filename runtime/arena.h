// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "runtime/buffer.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Memory of everything that lives within one step, used as a stack.
///
/// `allocate` moves the top up; `release` moves it back to a mark. Allocate what outlives a
/// function (results, what backward needs) first, then open a Scope for its temporaries.
/// Contents of a fresh allocation are undefined; with `poison` they are NaN, so that a read before
/// the first write shows.
///
/// On the CPU the address range is reserved at once and memory is taken from the system as the top
/// first passes it, in large pages where the system gives them: capacity is an upper bound, not a
/// cost. On a GPU the capacity is allocated at once. On the meta device only sizes are counted.
class Arena {
 public:
  struct Options {
    Device device;
    std::size_t capacity = 0;  // bytes; ignored on meta
    bool poison = false;
  };

  /// Throws DeviceError when the range cannot be reserved.
  explicit Arena(const Options& options);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Aligned to 64 bytes. Throws DeviceError, naming request and capacity, when full.
  Tensor allocate(const Shape& shape, DType dtype);

  std::size_t mark() const { return top_; }
  /// Frees everything allocated since `mark`.
  void release(std::size_t mark);
  /// Largest top since construction or the last reset_high_water().
  std::size_t high_water() const { return high_water_; }
  void reset_high_water() { high_water_ = top_; }
  std::size_t capacity() const { return capacity_; }
  Device device() const { return device_; }

  /// Releases at the end of a block what was allocated inside it.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
    ~Scope() { arena_.release(mark_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t mark_;
  };

 private:
  void commit(std::size_t end);

  Device device_;
  bool poison_ = false;
  Buffer device_memory_;  // of a GPU
  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t committed_ = 0;
  std::size_t top_ = 0;
  std::size_t high_water_ = 0;
};

}  // namespace polymoe

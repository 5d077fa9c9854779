// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "parallel/checkpoint/held_values.h"
#include "runtime/buffer.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// The dtype under which a save stores values held as `held`: f32 for bf16, which holds each of
/// them exactly, and otherwise the same. So runs of any device and precision exchange checkpoints.
DType dtype_to_store(DType held);

/// Whether values stored as `stored` can be read into memory of `held`: equal dtypes, or one of f32
/// and bf16 each. bf16 in memory gets the nearest, ties away from zero, as weights beside their
/// masters (kernels/split_float): a bf16 stored as f32 comes back.
bool can_be_read_as(DType stored, DType held);

/// to = from on the CPU, f32 and bf16 to either; equal element counts, no overlap.
void convert_values(const Tensor& from, const Tensor& to);

/// The way of values between tensors anywhere and files: through at most 96 MiB of host memory,
/// which it allocates where the values cannot go directly. Copies from and to a GPU are made in
/// order on `stream`, which must be of that GPU; what this writes there is there on return.
class HostPassage {
 public:
  /// Keeps the reference.
  explicit HostPassage(Stream& stream) : stream_(stream) {}

  /// Calls write(part) with the elements of `from` in order, in host memory and as `dtype`; a part
  /// is valid during the call. Throws InvalidArgument when `from` is on meta or another GPU.
  void write(const HeldValues& from, DType dtype,
             const std::function<void(const Tensor& part)>& write);

  /// to = values, of which there are at most 2^20 in host memory that may change on
  /// return. Throws InvalidArgument as above.
  void put(const Tensor& values, const HeldValues& to);

  /// Fills `to`: calls read(begin, part) to have the elements from `begin` on put into host memory
  /// of dtype `stored`. Throws InvalidArgument as above.
  void read(const HeldValues& to, DType stored,
            const std::function<void(std::int64_t begin, const Tensor& part)>& read);

 private:
  /// The tensor where it is on the host, else a copy in the buffer.
  Tensor on_host(const Tensor& tensor, Buffer& buffer);

  Stream& stream_;
  Buffer first_, second_, third_;  // allocated at the first use
};

}  // namespace polymoe

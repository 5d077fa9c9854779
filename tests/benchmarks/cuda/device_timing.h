// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "runtime/buffer.h"
#include "runtime/stream.h"

namespace polymoe::benchmarks {

/// The exit code of a benchmark: 0 after `body`; 1, with the reason on stderr, where there is no
/// GPU or `body` throws.
int run_on_gpu(const std::function<void()>& body);

/// Median of the seconds between events around `work`, submitted to `stream` 40 times after a
/// warm-up.
double median_seconds(Stream& stream, const std::function<void()>& work);

/// Bytes per second, reads and writes counted, of a device-to-device copy of 2 GiB.
double device_copy_bandwidth(Stream& stream);

/// On the stream's device, normal values with the deviation given, from a block of 4 Mi repeated.
OwnedTensor normal_values(const Shape& shape, DType dtype, double deviation, Stream& stream);

/// One line: name, milliseconds, floor of the bytes moved, bytes per second, share of the copy's.
void print_share(const char* name, double seconds, double bytes, double copy_bandwidth);

}  // namespace polymoe::benchmarks

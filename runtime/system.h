// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace polymoe {

std::string host_name();

/// "Intel(R) Xeon(R) ...", or "unknown" where the system does not say.
std::string processor_name();

/// Cores that this process may use: its affinity mask, bounded by the processor quota of its
/// control groups (rounded down). At least 1.
int usable_cores();

/// Memory of the machine in bytes, bounded by the limits of this process's control groups.
std::int64_t usable_memory_bytes();

/// Largest resident memory of this process so far, in bytes.
std::int64_t peak_memory_bytes();

/// The quota in cores of a control group's cpu.max: "150000 100000" is 1.5; nothing for "max".
std::optional<double> parse_cpu_max(std::string_view text);

}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
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

/// Address space that this process may still take, in bytes; nothing where it is not limited
/// (`ulimit -v`).
std::optional<std::int64_t> address_space_left();

/// What control groups allow a process; nothing where they do not say.
struct GroupLimits {
  std::optional<double> cores;
  std::optional<std::int64_t> memory_bytes;
};

/// The lowest limits of the groups that `groups` names, in the form of /proc/self/cgroup, and of
/// all their parents, below `root`, which is /sys/fs/cgroup: of version 2 ("0::/path") and of
/// version 1 ("4:memory:/path").
GroupLimits group_limits(const std::filesystem::path& root, const std::string& groups);

/// Largest resident memory of this process so far, in bytes.
std::int64_t peak_memory_bytes();

/// The quota in cores of a control group's cpu.max: "150000 100000" is 1.5; nothing for "max".
std::optional<double> parse_cpu_max(std::string_view text);

}  // namespace polymoe

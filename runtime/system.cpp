// SPDX-License-Identifier: Apache-2.0
#include "runtime/system.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <vector>

namespace polymoe {
namespace {

/// First line of a file of the system; empty where there is none.
std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The directories of this process's control groups (version 2) and of their parents.
std::vector<std::filesystem::path> control_groups() {
  const std::filesystem::path root = "/sys/fs/cgroup";
  std::vector<std::filesystem::path> groups = {root};
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::/")) continue;
    std::filesystem::path group = root;
    for (const auto& part : std::filesystem::path(line.substr(4))) {
      group /= part;
      groups.push_back(group);
    }
  }
  return groups;
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

int usable_cores() {
  double cores = 1.0;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(0, sizeof mask, &mask) == 0) {
    cores = CPU_COUNT(&mask);
  } else {
    cores = static_cast<double>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  }
  for (const auto& group : control_groups()) {
    if (const auto quota = parse_cpu_max(first_line(group / "cpu.max"))) {
      cores = std::min(cores, *quota);
    }
  }
  // Control groups of version 1.
  const auto quota = parse_integer(first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
  const auto period = parse_integer(first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  if (quota && period && *quota > 0 && *period > 0) {
    cores = std::min(cores, static_cast<double>(*quota) / static_cast<double>(*period));
  }
  return std::max(1, static_cast<int>(cores));
}

std::int64_t usable_memory_bytes() {
  std::int64_t bytes = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) *
                       static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE));
  for (const auto& group : control_groups()) {
    const auto limit = parse_integer(first_line(group / "memory.max"));
    if (limit && *limit > 0) bytes = std::min(bytes, *limit);
  }
  const auto limit = parse_integer(first_line("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
  if (limit && *limit > 0) bytes = std::min(bytes, *limit);
  return bytes;
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::optional<double> parse_cpu_max(std::string_view text) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const auto quota = parse_integer(text.substr(0, space));
  const auto period = parse_integer(text.substr(space + 1));
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

}  // namespace polymoe

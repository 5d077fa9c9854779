// SPDX-License-Identifier: Apache-2.0
#include "runtime/system.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
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

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The group of that path below a hierarchy's root, and all of its parents.
std::vector<std::filesystem::path> groups_up_to(const std::filesystem::path& root,
                                                const std::string& path) {
  std::vector<std::filesystem::path> groups = {root};
  for (const auto& part : std::filesystem::path(path).relative_path())
    groups.push_back(groups.back() / part);
  return groups;
}

template <class Value>
void lower(std::optional<Value>& limit, std::optional<Value> value) {
  if (value && *value > Value(0)) limit = std::min(limit.value_or(*value), *value);
}

void lower_by_version_2(GroupLimits& limits, const std::filesystem::path& group) {
  lower(limits.cores, parse_cpu_max(first_line(group / "cpu.max")));
  lower(limits.memory_bytes, parse_integer(first_line(group / "memory.max")));
  lower(limits.memory_bytes, parse_integer(first_line(group / "memory.high")));
}

void lower_by_version_1(GroupLimits& limits, const std::filesystem::path& group) {
  const auto quota = parse_integer(first_line(group / "cpu.cfs_quota_us"));
  const auto period = parse_integer(first_line(group / "cpu.cfs_period_us"));
  if (quota && period && *period > 0)
    lower(limits.cores, std::optional(static_cast<double>(*quota) / static_cast<double>(*period)));
  lower(limits.memory_bytes, parse_integer(first_line(group / "memory.limit_in_bytes")));
}

GroupLimits own_limits() {
  std::ifstream file("/proc/self/cgroup");
  const std::string groups(std::istreambuf_iterator<char>(file), {});
  return group_limits("/sys/fs/cgroup", groups);
}

}  // namespace

GroupLimits group_limits(const std::filesystem::path& root, const std::string& groups) {
  GroupLimits limits;
  std::istringstream lines(groups + "0::/\n");  // the root itself, whatever is told
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string path = line.substr(second + 1);
    std::istringstream controllers(line.substr(first + 1, second - first - 1));
    std::string controller;
    if (second == first + 1)
      for (const auto& group : groups_up_to(root, path)) lower_by_version_2(limits, group);
    while (std::getline(controllers, controller, ','))
      for (const auto& group : groups_up_to(root / controller, path))
        lower_by_version_1(limits, group);
  }
  // A container may see its own group as the root of a hierarchy, under another path.
  for (const char* controller : {"cpu", "memory"}) lower_by_version_1(limits, root / controller);
  return limits;
}

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
  cores = std::min(cores, own_limits().cores.value_or(cores));
  return std::max(1, static_cast<int>(cores));
}

std::int64_t usable_memory_bytes() {
  std::int64_t bytes = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) *
                       static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE));
  bytes = std::min(bytes, own_limits().memory_bytes.value_or(bytes));
  return bytes;
}

std::optional<std::int64_t> address_space_left() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
  std::int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const std::int64_t used = pages * static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE));
  return std::max<std::int64_t>(0, static_cast<std::int64_t>(limit.rlim_cur) - used);
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

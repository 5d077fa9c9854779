// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/machine_state.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/cuda/gpu_health.h"
#include "runtime/device.h"
#include "runtime/files/json.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

double number_in(const std::string& path) {
  std::ifstream file(path);
  double value = 0.0;
  file >> value;
  return file ? value : 0.0;
}

/// The mean of `visit` over the cores of this process that it gives a number for.
template <class Visit>
double mean_over_cores(Visit visit) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 0.0;
  double sum = 0.0;
  int count = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &cores)) continue;
    const double value = visit(core);
    if (value <= 0.0) continue;
    sum += value;
    ++count;
  }
  return count > 0 ? sum / count : 0.0;
}

double frequency_file(int core, const char* name) {
  return number_in(fmt::format("/sys/devices/system/cpu/cpu{}/cpufreq/{}", core, name)) / 1000.0;
}

/// "cpu MHz : 2100.000" of each processor, by its number.
std::vector<double> frequencies_of_cpuinfo() {
  std::vector<double> frequencies;
  std::ifstream file("/proc/cpuinfo");
  std::size_t core = 0;
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 1);
    if (line.starts_with("processor")) core = std::strtoul(value.c_str(), nullptr, 10);
    if (!line.starts_with("cpu MHz")) continue;
    frequencies.resize(std::max(frequencies.size(), core + 1));
    frequencies[core] = std::strtod(value.c_str(), nullptr);
  }
  return frequencies;
}

MachineState of_processor() {
  MachineState state;
  state.clock_mhz =
      mean_over_cores([](int core) { return frequency_file(core, "scaling_cur_freq"); });
  if (state.clock_mhz > 0.0) {
    state.highest_mhz =
        mean_over_cores([](int core) { return frequency_file(core, "cpuinfo_max_freq"); });
  } else {
    const std::vector<double> known = frequencies_of_cpuinfo();
    state.clock_mhz = mean_over_cores([&](int core) {
      const auto at = static_cast<std::size_t>(core);
      return at < known.size() ? known[at] : 0.0;
    });
  }
  const auto cores = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
  if (cores > 0.0) state.load = number_in("/proc/loadavg") / cores;
  return state;
}

}  // namespace

MachineState machine_state(Device device) {
  MachineState state;
  if (device.type == DeviceType::cuda) {
    if (const auto gpu = cuda::gpu_health(device.index)) {
      state.clock_mhz = gpu->clock_mhz;
      state.highest_mhz = gpu->highest_mhz;
      state.celsius = gpu->celsius;
      state.watts = gpu->watts;
      state.highest_watts = gpu->highest_watts;
      state.throttled = fmt::format("{}", fmt::join(gpu->throttled, ", "));
    }
  } else {
    state = of_processor();
  }
  state.host = host_name();
  return state;
}

std::string MachineState::text() const {
  std::vector<std::string> parts;
  const auto add = [&](double value, double highest, const char* unit) {
    if (value <= 0.0) return;
    parts.push_back(highest > 0.0 ? fmt::format("{:.0f} of {:.0f} {}", value, highest, unit)
                                  : fmt::format("{:.0f} {}", value, unit));
  };
  add(clock_mhz, highest_mhz, "MHz");
  add(celsius, 0.0, "C");
  add(watts, highest_watts, "W");
  if (load > 0.0) parts.push_back(fmt::format("{:.2f} tasks a core", load));
  if (!throttled.empty()) parts.push_back("held back by: " + throttled);
  return fmt::format("{}", fmt::join(parts, ", "));
}

Json MachineState::to_json() const {
  Json json = Json::object();
  json.set("host", host);
  const auto set = [&](const char* key, double value) {
    if (value > 0.0) json.set(key, value);
  };
  set("mhz", clock_mhz);
  set("highest_mhz", highest_mhz);
  set("celsius", celsius);
  set("watts", watts);
  set("highest_watts", highest_watts);
  set("tasks_per_core", load);
  if (!throttled.empty()) json.set("throttled", throttled);
  return json;
}

}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace polymoe {

/// Where memory lies and operations run. `meta` has sizes but no memory, and its operations do
/// nothing: the memory plan is the real program run on it.
enum class DeviceType : std::uint8_t { cpu, meta, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  static constexpr Device cpu() { return {DeviceType::cpu, 0}; }
  static constexpr Device meta() { return {DeviceType::meta, 0}; }
  friend bool operator==(const Device&, const Device&) = default;
};

/// "cpu", "meta", "cuda:0".
std::string name_of(Device device);

}  // namespace polymoe

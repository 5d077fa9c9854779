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
  int index = 0;  // of the GPU; on meta: the DeviceType that is planned for

  static constexpr Device cpu() { return {DeviceType::cpu, 0}; }
  static constexpr Device cuda(int index) { return {DeviceType::cuda, index}; }
  /// `planned`: the backend whose scratch sizes the operations take.
  static constexpr Device meta(DeviceType planned = DeviceType::cpu) {
    return {DeviceType::meta, static_cast<int>(planned)};
  }
  /// The backend whose memory needs count: the device's own, or the one that meta plans for.
  constexpr DeviceType backend() const {
    return type == DeviceType::meta ? static_cast<DeviceType>(index) : type;
  }
  friend bool operator==(const Device&, const Device&) = default;
};

/// "cpu", "meta", "cuda:0".
std::string name_of(Device device);

}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#include "runtime/device.h"

#include <string>

namespace polymoe {

std::string name_of(Device device) {
  switch (device.type) {
    case DeviceType::cpu:
      return "cpu";
    case DeviceType::meta:
      return "meta";
    case DeviceType::cuda:
      return "cuda:" + std::to_string(device.index);
  }
  return "?";
}

}  // namespace polymoe

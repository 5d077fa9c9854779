// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cpu {

/// a / b, rounded up.
constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace polymoe::cpu

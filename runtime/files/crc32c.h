// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace polymoe {

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78).
/// Source: RFC 3720, section 12.1 and appendix B.4.
std::uint32_t crc32c(std::string_view bytes);

}  // namespace polymoe

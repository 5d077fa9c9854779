// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/packed.h"

#include <cstdint>
#include <cstring>
#include <string_view>

#include "runtime/error.h"

namespace polymoe {

Packer& Packer::number(std::int64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  return *this;
}

Packer& Packer::text(std::string_view value) {
  number(static_cast<std::int64_t>(value.size()));
  bytes_.append(value);
  return *this;
}

std::string_view Unpacker::take(std::size_t bytes) {
  if (bytes > rest_.size()) throw CommunicationError("a message of a peer ends too early");
  const std::string_view part = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  return part;
}

std::int64_t Unpacker::number() {
  std::int64_t value = 0;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

std::string Unpacker::text() { return std::string(take(static_cast<std::size_t>(number()))); }

}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace polymoe {

/// Numbers and texts in a row of bytes, as ranks of one program send a struct to each other. It has
/// no format that outlives the program: both sides are of the same build and byte order.
class Packer {
 public:
  Packer& number(std::int64_t value);
  Packer& text(std::string_view value);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads them back in the same order. Throws CommunicationError where there is less.
class Unpacker {
 public:
  /// `bytes` outlives this.
  explicit Unpacker(std::string_view bytes) : rest_(bytes) {}
  std::int64_t number();
  std::string text();
  bool done() const { return rest_.empty(); }

 private:
  std::string_view take(std::size_t bytes);

  std::string_view rest_;
};

}  // namespace polymoe

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace polymoe {

/// The right of one process, of any on any host that sees the directory, to run a cell. Needs
/// nothing of the file system but that creating a new file succeeds for one of those who try, so it
/// holds where flock does not.
///
/// The files DIR/claim.0, claim.1, ... are generations; the highest is the one that counts, and
/// whoever holds it refreshes it. It is free again when it says "released", when its process is
/// gone, or, of another host, when it was not refreshed for a time. Whoever takes it over creates
/// the next generation.
class Claim {
 public:
  /// Nothing while another process holds it; `holder` then says who. Throws OutputFileError where
  /// the directory cannot be written.
  static std::optional<Claim> take(const std::filesystem::path& directory, std::string& holder);
  ~Claim();
  Claim(Claim&& other) noexcept;
  Claim& operator=(Claim&&) = delete;
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

  /// To be called at least every `refresh_seconds`.
  void refresh() const noexcept;
  static constexpr double refresh_seconds = 10.0;
  /// Without a sign of life for so long, a holder on another host is taken for dead.
  static constexpr double lease_seconds = 600.0;

 private:
  explicit Claim(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;  // empty = moved from
};

}  // namespace polymoe
